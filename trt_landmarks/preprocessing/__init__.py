"""Preprocessing: from scans to the coarse net's input, by NumPy or by NVIDIA DALI, with the same numbers."""
