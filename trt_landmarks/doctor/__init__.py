"""``trtlm doctor``: what is installed, what conflicts, what can be done here.

:mod:`facts` gathers, without importing any package in this process: metadata tells what is installed, child processes
(:mod:`probe`) load it, and the driver is asked.  :mod:`checks` and :mod:`report` only judge these facts.

The JSON report (``--json``)::

    format      1
    trtlm       version of the toolkit
    verdict     ok (whether inference on the CPU works; the exit code is 0 or 2 accordingly), summary
    machine     python, system, machine, libc, cores, memory_bytes
    driver      cuda (version the driver supports), kernel (version of the kernel driver), problem (why no GPU can be
                used); null where there is none
    gpus        list of name, compute_capability, memory_bytes
    packages    numpy, SimpleITK, isal, onnxruntime, onnx, torch, modelopt, tensorrt, tensorrt-rtx, pycuda, dali, each:
                  state          loaded, found (installed, not loaded), missing, failed, late (not loaded in time),
                                 untried (the one before it ended their process)
                  version, distributions (name to version), problem
                  details        providers, package, cuda (onnxruntime); cuda (torch, pycuda); targets (tensorrt-rtx)
    settings    TRTLM_MODEL, TRTLM_CACHE, CUDA_VISIBLE_DEVICES, those that are set
    model       name, shipped, graphs, landmarks, ships (names of shipped models), builds, warnings; problem
    cache       folder, exists, writable, bytes, free_bytes; problem
    conflicts   list of code, severity (problem or note), message, remedy
    engines     list of engine, precision (empty: the graphs' own), build and run, each: possible (true, false, or null
                if not known) and reason
    dali        cpu and gpu, each: possible, reason
    faults      what could not be looked at, and why
    seconds     time taken

**Not verified, for want of a GPU:** what is said of a GPU that works, seen here only with stand-ins for the driver.
"""
