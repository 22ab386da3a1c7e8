"""README's picture: maximum-intensity projections of a scan with its predicted and annotated landmarks.

    python -m benchmarks.picture SCAN PREDS.json LANDMARKS.mrk.json --out docs/result.png

Needs matplotlib.  Axes are LPS mm; the projections are of a resampled copy along the world's axes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from trt_landmarks.geometry import Grid
from trt_landmarks.landmark_files import read_landmarks, select
from trt_landmarks.predictions import read_predictions
from trt_landmarks.sampling import sample
from trt_landmarks.scan import case_id, read_scan

matplotlib.use("Agg")
import matplotlib.pyplot as plt

#: Title, horizontal and vertical world axis, and the array axis that is projected away.
VIEWS = (("from the front", 0, 2, 1), ("from the left", 1, 2, 2), ("from above", 0, 1, 0))
LABELS = ("left, mm", "back, mm", "up, mm")


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    scan = read_scan(options.scan)
    case = next(one for one in read_predictions(options.predictions).cases if one.id == case_id(options.scan))
    found = np.array([mark.position_lps_mm for mark in case.landmarks])
    names = [mark.name for mark in case.landmarks]
    truth = select(read_landmarks(options.landmarks), names, options.landmarks)
    last = np.array(scan.geometry.size) - 1
    extent = np.ptp(scan.geometry.voxel_to_world(np.array([np.zeros(3), last])), axis=0)
    step = extent.max() / 300
    x, y, z = (int(length / step) + 1 for length in extent)
    grid = Grid((x, y, z), (step, step, step), scan.geometry.centre)
    volume = sample(scan.voxels, scan.geometry, grid)
    start = np.asarray(grid.geometry.origin)
    end = start + (np.array(grid.shape) - 1) * step
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), facecolor="black")
    for panel, (title, horizontal, vertical, away) in zip(panels, VIEWS, strict=True):
        box = (start[horizontal], end[horizontal], start[vertical], end[vertical])
        panel.imshow(volume.max(axis=away), cmap="gray", origin="lower", extent=box, vmax=np.percentile(volume, 99.9))
        panel.plot(
            truth[:, horizontal], truth[:, vertical], "o", ms=7, mfc="none", mec="deepskyblue", label="annotated"
        )
        panel.plot(found[:, horizontal], found[:, vertical], ".", ms=5, color="orange", label="predicted")
        panel.set_title(title, color="white")
        panel.set_xlabel(LABELS[horizontal], color="white")
        panel.set_ylabel(LABELS[vertical], color="white")
        panel.tick_params(colors="white")
    panels[0].legend(loc="lower left", fontsize=8)
    error = np.linalg.norm(found - truth, axis=1)
    figure.suptitle(f"{case.id}: {len(found)} landmarks, mean error {np.nanmean(error):.2f} mm", color="white")
    figure.tight_layout()
    figure.savefig(options.out, dpi=80, facecolor="black")


if __name__ == "__main__":
    main()
