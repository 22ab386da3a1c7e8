"""The page that shows a scan and its landmarks in a browser: served by ``trtlm serve``, or one offline file.

The files are in ``page/``: NiiVue draws (its licence is beside it), ``page.js`` is ours.  In the offline file
everything is inside: scripts, the results, and the scan, cropped to what it shows and reduced to 8 bit.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_text
from trt_landmarks.outputs.markups import case_text
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import Scan
from trt_landmarks.scan.itk import sitk

#: Holds the page's files.
FOLDER = Path(__file__).with_name("page")
#: What a browser is told with the served page: nothing comes from elsewhere.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: Bytes of the compressed scan in a page, and voxels to begin with.
_MOST_BYTES, _MOST_VOXELS = 6 << 20, 12_000_000
#: mm that are kept about what is shown.
_MARGIN = 5.0


def write_page(path: str | Path, predictions: Predictions, groups: Mapping[str, str], scan: Scan) -> None:
    """Write an offline page of one case.

    Args:
        path: file to write; it appears whole or not at all.
        predictions: with the one case, which has landmarks.
        groups: landmark -> the correlated group it belongs to.
        scan: the case's scan.

    Raises:
        PredictionsError: if the file cannot be written, or the case has no landmarks.
    """
    (case,) = predictions.cases
    if not case.landmarks:
        reason = case.error.message if case.error is not None else "it has no landmarks"
        raise PredictionsError(f"case '{case.id}' cannot be shown: {reason}")
    content = page_data(predictions, groups) | shown(scan, case)
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    niivue, script, style = (
        (FOLDER / name).read_text(encoding="utf-8") for name in ("niivue.umd.js", "page.js", "page.css")
    )
    scripts = "".join(
        f"<script{kind}>{text}</script>\n"
        for kind, text in (
            (' type="application/json" id="data"', data),
            ("", niivue.replace("</script", "<\\/script")),
            ("", script.replace("</script", "<\\/script")),
        )
    )
    write_text(path, _page(f"<style>\n{style}</style>", scripts), PredictionsError)


def served_page() -> str:
    """The page of the server, which takes its parts from there."""
    scripts = '<script src="static/niivue.umd.js"></script>\n<script src="static/page.js"></script>\n'
    return _page('<link rel="stylesheet" href="static/page.css">', scripts)


def page_data(predictions: Predictions, groups: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of a case: its results file, its 3D Slicer file and its groups."""
    (case,) = predictions.cases
    return {"predictions": predictions.to_dict(), "markups": json.loads(case_text(case)), "groups": dict(groups)}


def shown(scan: Scan, case: CaseResult) -> dict[str, Any]:
    """The scan as the page shows it.

    Returns:
        ``volume``: a compressed NIfTI file, base64; ``voxel_from_lps``: ``[4, 4]``, from LPS mm (x, y, z, 1) to voxels
        of the scan itself.
    """
    points = [mark.position_lps_mm for mark in case.landmarks]
    return {
        "volume": base64.b64encode(_volume(scan, points)).decode(),
        "voxel_from_lps": scan.geometry.world_to_voxel_matrix.tolist(),
    }


def _page(style: str, scripts: str) -> str:
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    return page.replace("<!--style-->", style).replace("<!--scripts-->", scripts)


def _volume(scan: Scan, points: Sequence[Sequence[float]]) -> bytes:
    """A NIfTI file of 8-bit voxels: cropped, and shrunk until it is small enough."""
    kit = sitk()
    low, high = np.percentile(scan.voxels[::2, ::2, ::2], [0.5, 99.8])
    box = _box(scan, points, float(low + 0.1 * (high - low)))
    image = kit.GetImageFromArray(scan.voxels[box])
    i, j, k = (box[axis].start for axis in (2, 1, 0))
    image.SetOrigin(scan.geometry.voxel_to_world([[i, j, k]])[0].tolist())
    image.SetSpacing(scan.geometry.spacing)
    image.SetDirection(scan.geometry.direction.ravel().tolist())
    factors = [1, 1, 1]
    while True:
        while np.prod(image.GetSize()) / np.prod(factors) > _MOST_VOXELS:
            _coarser(factors, image)
        small = kit.BinShrink(kit.Cast(image, kit.sitkFloat32), factors)
        eight = kit.IntensityWindowing(small, float(low), float(max(high, low + 1e-6)), 0, 255)
        content = _nifti(kit.Cast(eight, kit.sitkUInt8))
        if len(content) <= _MOST_BYTES:
            return content
        _coarser(factors, image)


def _coarser(factors: list[int], image: Any) -> None:
    """Shrink more, along the axis with the finest voxels."""
    spacing = [size * factor for size, factor in zip(image.GetSpacing(), factors, strict=True)]
    can = [axis for axis in range(3) if image.GetSize()[axis] // (factors[axis] + 1) >= 2]
    factors[min(can, key=lambda axis: spacing[axis])] += 1


def _nifti(image: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="trtlm-page-") as folder:
        path = Path(folder, "scan.nii.gz")
        sitk().WriteImage(image, str(path), useCompression=True)
        return path.read_bytes()


def _box(scan: Scan, points: Sequence[Sequence[float]], threshold: float) -> tuple[slice, slice, slice]:
    """The part ``[k, j, i]`` of a scan that is not background, with all landmarks inside the scan."""
    bright: NDArray[np.bool_] = scan.voxels > threshold
    inside = scan.geometry.world_to_voxel(np.asarray(points, np.float64).reshape(-1, 3))[:, ::-1]
    parts = []
    for axis in range(3):
        count = bright.shape[axis]
        share = bright.mean(axis=tuple(other for other in range(3) if other != axis))
        here = np.flatnonzero(share > 0.001)
        marks = inside[:, axis].clip(0, count - 1)
        margin = _MARGIN / scan.geometry.spacing[2 - axis]
        first = min(here.min(initial=count), marks.min(initial=count)) - margin
        last = max(here.max(initial=0), marks.max(initial=0)) + margin
        start, stop = max(0, int(first)), min(count, int(last) + 2)
        parts.append(slice(start, stop) if stop - start >= 2 else slice(0, count))
    return parts[0], parts[1], parts[2]
