"""``python -m trt_landmarks`` is ``trtlm``."""

from trt_landmarks.cli import main

main()
