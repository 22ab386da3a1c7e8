"""Lower precision: FP16 and INT8 graphs calibrated on real scans. Imported as ``trt_landmarks.calibration``."""
