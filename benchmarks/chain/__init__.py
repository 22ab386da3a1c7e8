"""Random tasks and faulty data through the whole chain: task file, init, train, export, infer.

    python -m benchmarks.chain --tasks 30 --faults 100 --seed 1 [--minutes 20] [--out benchmarks/results/chain]

A task is drawn at random (:mod:`benchmarks.chain.tasks`): any number and names of landmarks, groups, grids and scans
that a task file allows.  Its nets are trained for one step each; their heads then get random weights, so that heatmaps
have peaks.  What ``trtlm infer`` gives must be what the checkpoint gives, within 0.01 mm, wherever the heatmaps say
where the landmark is: where changes of voxels and heatmaps by a millionth do not move it.

A fault (:mod:`benchmarks.chain.faults`) spoils a folder of training data or its task; ``trtlm train`` must refuse it or
say what it left out or doubts, without a traceback.
"""
