"""Layouts: how the method is cut into graphs.

``nets``: one graph per net; the host samples their inputs.  The others take the scan itself
(:mod:`trt_landmarks.localization.whole_scan`): ``pair``, a graph for each stage; ``one``, the whole method.
"""

NETS = "nets"
#: Layouts over a whole scan, with their graphs in the order they run.
LAYOUTS = {"pair": ("scan-coarse", "scan-fine"), "one": ("scan",)}
#: Inputs of all these graphs; ``scan-fine`` takes the coarse points as well.
SCAN_INPUTS = ("voxels", "to_grid", "limit", "intensity")
