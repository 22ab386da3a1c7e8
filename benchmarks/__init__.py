"""Measurements behind the figures in the documentation. Run from a checkout; not installed."""
