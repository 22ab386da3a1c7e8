"""trt-landmarks: 3D medical landmark localization from a PyTorch checkpoint to a deployed, measured engine."""

__version__ = "0.1.0"
