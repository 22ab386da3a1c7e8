"""How much faster PyTorch gets: a plain script, batched nets, and the fastest of what PyTorch offers for each net.

    python -m benchmarks.pytorch SCANS --out benchmarks/results/pytorch [--rounds 5] [--no-compile]

``trtlm bench`` compares with batched nets only; this adds the script that a researcher writes first
(:mod:`benchmarks.pytorch.script`) and the tuning of each net (:mod:`benchmarks.pytorch.variants`).  Everything runs in
one process, in turns; times are of whole scans, from reading to points.
"""
