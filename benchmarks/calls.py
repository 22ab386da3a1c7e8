"""How much of this package one scan of ``trtlm infer`` enters: Python calls and files, in all threads.

    python -m benchmarks.calls SCAN [OPTION ...]

Options go to ``trtlm infer``.  Calls of other packages and of built-in functions do not count, nor do the import of a
module, class bodies and generator expressions.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import trt_landmarks

ROOT = str(Path(trt_landmarks.__file__).parent)


def count_calls(arguments: list[str]) -> Counter[str]:
    """Run ``trtlm`` with these arguments; file of the package -> Python calls of its functions."""
    from trt_landmarks import cli

    calls: list[str] = []  # appending is atomic, so that threads need no lock

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        function = code.co_flags & inspect.CO_OPTIMIZED and code.co_name != "<genexpr>"  # no module, no class body
        if event == "call" and function and code.co_filename.startswith(ROOT):
            calls.append(code.co_filename)

    sys.argv = ["trtlm", *arguments]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return Counter(name.removeprefix(ROOT + "/") for name in calls)


def main() -> None:
    """The command."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        counts = count_calls(["infer", *arguments, "--out", f"{folder}/results.json"])
    for name, count in counts.most_common():
        print(f"{count:6d}  {name}")
    print(f"{counts.total()} calls in {len(counts)} files")


if __name__ == "__main__":
    main()
