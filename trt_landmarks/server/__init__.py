"""Models as a service: one resident process that answers Slicer, Triton's clients and a browser."""
