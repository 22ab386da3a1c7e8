"""Does it all work on this GPU?  One command, under 8 minutes, one report as JSON and Markdown.

    python -m benchmarks.gpu_check --scans DIR --out FOLDER [--model M] [--count 5]

Every section runs in a process of its own with a time limit, so a crash of native code or a hang costs that section
only, and what it had found by then is kept.  What cannot run is a row with its reason.  A row's result is one of

    ok        it was checked and agrees
    failed    it was checked and does not, or it crashed or hung on the GPU
    measured  a figure without a verdict
    not run   it could not be done here, with the reason

Exit code: 0 if everything that ran agrees; 1 if a row failed, also where TensorRT and PyCUDA are installed and no plan
opens; 2 if there is no GPU (the report is written and says so).  The report is written after each section; it names
chips and versions, never a path or a machine.

**Builds** are taken as they are found (``TRTLM_CACHE``, or within a bundle), and only missing ones are made here: fp32
and fp16, the latter without scans; int8 only from a build of its graphs.  So plans that were built ahead of time, on a
machine without a GPU, are carried along by carrying that folder.  ``benchmarks/pack.py`` packs all that a machine
without a network needs.

**Not verified on a GPU:** every section.  Their logic is tested with a stand-in for TensorRT, PyCUDA and the driver
that computes with ONNX Runtime; a run without a GPU is tested as it is.
"""
