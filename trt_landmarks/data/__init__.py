"""Annotated scans: landmark files, training folders, and a task proposed from annotations."""
