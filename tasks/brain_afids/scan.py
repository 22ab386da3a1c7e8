"""Where the human scan of the demo is: nilearn's T1 template.

trtlm infer "$(python -m tasks.brain_afids.scan)" --model brain-afids --out preds.json
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

#: In nilearn's package: MNI152, 2009a, symmetric, T1, 1 mm, brain only.
T1_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def t1_path() -> Path:
    """The T1 template in the installed nilearn, which is found and not imported.

    Raises:
        ModuleNotFoundError: without nilearn.
    """
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package nilearn is not installed: pip install trt-landmarks[demo]")
    return Path(package.origin).parent / T1_FILE


def main() -> None:
    """Print the path."""
    try:
        print(t1_path())
    except ModuleNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
