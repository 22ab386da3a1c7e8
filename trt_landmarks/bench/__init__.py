"""``trtlm bench``: how fast each way of running a model is on this machine, with the accuracy beside it.

::

    ways (what is run) -> worker (a way in a process of its own) <- child (that process, from outside)
    pytorch (the model's nets in PyTorch, the baseline)
    run (the whole benchmark) -> measure (rounds) -> statistics -> report, figures; compare (two reports)
"""
