"""From a trained checkpoint to a bundle: ONNX graphs, checked against PyTorch. Imported as ``trt_landmarks.export``."""
