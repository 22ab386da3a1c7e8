"""The networks, in PyTorch: coarse, independent, correlated, and the decoding of heatmaps.

Tensors are ``[batch, landmark or channel, z, y, x]``; points are ``(x, y, z)``.
"""
