"""``python -m trt_landmarks.doctor``: the same as ``trtlm doctor``, where even ``trtlm`` does not start."""

import sys

from trt_landmarks.doctor.report import doctor

raise SystemExit(doctor("--json" in sys.argv, "--deep" in sys.argv))
