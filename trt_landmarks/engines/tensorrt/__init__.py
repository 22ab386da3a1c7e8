"""TensorRT and TensorRT for RTX: building plans, checking them, and running them on a GPU."""
