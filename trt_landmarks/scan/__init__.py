"""Files in: find scans, read one into voxels and geometry, and say plainly what is wrong with it."""

from trt_landmarks.scan.find import find_scans
from trt_landmarks.scan.formats import EXTENSIONS, case_id, extension
from trt_landmarks.scan.read import read_scan, write_scan
from trt_landmarks.scan.volume import Scan, ScanFile, ScanWarning, scan_from_array

__all__ = [
    "EXTENSIONS",
    "Scan",
    "ScanFile",
    "ScanWarning",
    "case_id",
    "extension",
    "find_scans",
    "read_scan",
    "scan_from_array",
    "write_scan",
]
