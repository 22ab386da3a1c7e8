"""NVIDIA DALI: the same preprocessing as one graph, on the CPU or on a GPU.

    voxels -> (cast) -> warp_affine -> (v - low) * scale, clipped to 0..1 -> * inside     the coarse volume
           -> slice, to FP32 and padded sizes                                             the voxels for the patches

Voxels enter in their own number type.  For a GPU, DALI copies them into pinned memory of its own, and they cross once,
as they are: there is no FP32 copy on the host.  ``warp_affine`` interpolates trilinearly and repeats the border's
voxels; the reference does that only up to half a voxel outside and gives 0 beyond, so a mask computed from float64
positions follows.

DALI's positions are float32, and on the CPU it adds them up along a row.  For rows of 64 samples they were found to
be up to 3e-4 voxel off in scans of 128 voxels a side, 1e-3 at 512, 2e-3 at 1024; a value is off by that times the
step between neighbouring voxels (1e-4 of the range at most in the micro-CT heads).

The executor is the one with buffers of its own (``exec_dynamic=False``): outputs of scans of one padded size keep their
addresses, so that CUDA graphs which read them can be replayed.

Verified on the CPU backend.  **Not verified, for want of a GPU:** running the graph on one, that is ``device_id`` other
than None; that the GPU graph is well formed is tested.  It follows the documentation of DALI 2.4.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import DeviceArray, Input
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.errors import EngineError
from trt_landmarks.geometry import Grid
from trt_landmarks.preprocessing.reference import Range
from trt_landmarks.preprocessing.sampling import BORDER_TOLERANCE, grid_to_voxel
from trt_landmarks.scan import Scan
from trt_landmarks.system import cores, install_command
from trt_landmarks.task.graphs import padded_size

#: DALI's names of the number types that enter a graph.
TYPES = {
    np.dtype(name): kind
    for name, kind in {
        "uint8": "UINT8", "int8": "INT8", "uint16": "UINT16", "int16": "INT16", "uint32": "UINT32", "int32": "INT32",
        "uint64": "UINT64", "int64": "INT64", "float16": "FLOAT16", "float32": "FLOAT", "float64": "FLOAT64",
    }.items()
}  # fmt: skip
#: Those that ``warp_affine`` reads; others are cast to float32 behind the upload.
WARPED = {np.dtype(name) for name in ("uint8", "int16", "int32", "float32")}


class DaliPreprocessor:
    """Preprocessing with DALI; a :class:`~trt_landmarks.preprocessing.reference.Preprocessor`.

    A graph is made once for each number type and used for every batch of it; larger batches than ``max_batch``
    run in parts.  Calls from several threads run side by side, each with a graph of its own.

    Args:
        device_id: the GPU; None for the CPU.
        threads: DALI's threads on the CPU, which share out the scans of a batch; None takes all cores.
        max_batch: scans that go through a graph together at most.

    Raises:
        EngineError: if DALI is not installed, or there is no such GPU.
    """

    name = "dali"

    def __init__(self, device_id: int | None = None, threads: int | None = None, max_batch: int = 8) -> None:
        try:
            import nvidia.dali
        except ImportError as error:
            raise EngineError(
                f"DALI is not installed or does not load ({error}).", f"Install it with: {install_command('dali')}"
            ) from None
        self.version: str = nvidia.dali.__version__
        problem = gpu_problem() if device_id is not None else None
        if problem is not None:
            raise EngineError(f"DALI cannot run on a GPU here: {problem}.", "Take the CPU's preprocessing.")
        self.device_id = device_id
        self.threads = threads or cores()
        self.max_batch = max_batch
        self._free: dict[Any, list[Any]] = {}  # graphs that no thread is running, by what they are for

    def coarse_volumes(
        self, scans: Sequence[Scan], grids: Sequence[Grid], ranges: Sequence[Range]
    ) -> NDArray[np.float32]:
        """See :meth:`trt_landmarks.preprocessing.reference.Preprocessor.coarse_volumes`.

        Raises:
            EngineError: if DALI fails; the next call starts afresh.
        """
        volumes = np.empty((len(scans), 1, *grids[0].shape[::-1]), np.float32)
        for part in self._parts(scans):
            chosen = [scans[n] for n in part], [grids[n] for n in part], [ranges[n] for n in part]
            run = self._run(*chosen)
            found = run.outputs[0].as_cpu()
            for row, n in enumerate(part):
                volumes[n] = np.asarray(found[row])
            del found, run
        return volumes

    def _parts(self, scans: Sequence[Scan]) -> list[list[int]]:
        """Indices of the scans that can go through a graph together: of one number type, ``max_batch`` at most."""
        by_type: dict[np.dtype[Any], list[int]] = {}
        for n, scan in enumerate(scans):
            by_type.setdefault(scan.voxels.dtype, []).append(n)
        size = self.max_batch
        return [same[start : start + size] for same in by_type.values() for start in range(0, len(same), size)]

    def scan_volumes(self, scan: Scan, grid: Grid, intensities: Range, stream: int | None) -> tuple[Input, Input]:
        """See :meth:`trt_landmarks.preprocessing.reference.Preprocessor.scan_volumes`.

        On a GPU this returns before it is done: DALI makes ``stream`` wait for its own (the host does not), so what is
        enqueued there afterwards reads finished data.

        Raises:
            EngineError: if DALI fails; the next call starts afresh.
        """
        on_gpu = self.device_id is not None
        run = self._run([scan], [grid], [intensities], whole=True, stream=stream if on_gpu else None)
        volume, voxels = (output.as_tensor() for output in run.outputs)
        padded = (1, 1, *padded_size(scan.voxels.shape))
        if not on_gpu:
            return np.array(volume), np.array(voxels).reshape(padded)
        return (
            DeviceArray(int(volume.data_ptr()), (1, 1, *grid.shape[::-1]), run),
            DeviceArray(int(voxels.data_ptr()), padded, run),
        )

    def _run(
        self,
        scans: Sequence[Scan],
        grids: Sequence[Grid],
        ranges: Sequence[Range],
        whole: bool = False,
        stream: int | None = None,
    ) -> _Run:
        """One run of the graph; its outputs are synchronized with the host if there is no stream."""
        dtype = scans[0].voxels.dtype
        samples = [_sample(*one, whole) for one in zip(scans, grids, ranges, strict=True)]
        inputs = {name: [sample[name] for sample in samples] for name in samples[0]}
        free = self._free.setdefault((dtype, whole), [])
        # Taken out, and put back when nobody has the outputs any more, which the next run overwrites; never after a run
        # that was broken off (by an interrupt, too): it would give its leftovers to the next.
        try:
            pipeline = free.pop()
        except IndexError:
            pipeline = None
        try:
            if pipeline is None:
                pipeline = make_pipeline(
                    dtype, self.device_id is not None, whole, batch_size=self.max_batch, num_threads=self.threads,
                    device_id=self.device_id,
                )  # fmt: skip
            run = _Run(pipeline.run(stream, **inputs))
        except Exception as error:  # DALI raises RuntimeError, ValueError, TypeError and its own
            names = ", ".join(scan.id for scan in scans)
            raise EngineError(
                f"DALI {self.version} failed on {names}: {_reason(error)}.",
                "Take --preprocess reference.",
                code="preprocessing_failed",
            ) from error
        weakref.finalize(run, free.append, pipeline).atexit = False
        return run


class _Run:
    """What a run gave: DALI tensor lists, which are views of the graph's own buffers."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        self.outputs = outputs


def make_pipeline(dtype: np.dtype[Any], gpu: bool, whole: bool = False, **settings: Any) -> Any:
    """The graph for voxels of one number type, on the CPU or the GPU: a DALI ``Pipeline``.

    Inputs, by name and per scan: what :func:`_sample` gives.  Outputs: volumes ``[1, Z, Y, X]`` in 0..1, and if
    ``whole`` the voxels in FP32, ``[K, J, I, 1]``.

    Args:
        dtype: of the voxels.
        gpu: compute on the GPU.
        whole: also for the graph of the whole method.
        settings: of the ``Pipeline``.

    Raises:
        TypeError: if DALI has no such number type.
    """
    from nvidia.dali import Pipeline, fn, math, types

    if dtype not in TYPES:
        raise TypeError(f"it takes no voxels of type {dtype}")

    def source(name: str, kind: Any, ndim: int, **more: Any) -> Any:
        node = fn.external_source(name=name, dtype=kind, ndim=ndim, **more)
        return node.gpu() if gpu else node

    # A depth of 1 runs a batch when it is asked for; more would prepare batches ahead that are not there yet.
    pipeline = Pipeline(prefetch_queue_depth=1, exec_dynamic=False, **settings)
    with pipeline:
        voxels = source("voxels", getattr(types, TYPES[dtype]), 4, layout="DHWC", no_copy=not gpu)
        matrix = fn.external_source(name="matrix", dtype=types.FLOAT, ndim=2)  # arguments of operators stay
        size = fn.external_source(name="size", dtype=types.INT32, ndim=1)  # on the CPU
        volume = voxels if dtype in WARPED else fn.cast(voxels, dtype=types.FLOAT)
        volume = fn.warp_affine(volume, matrix=matrix, size=size, dtype=types.FLOAT)
        volume = fn.expand_dims(fn.squeeze(volume, axis_names="C"), axes=0, new_axis_names="C")
        low, scale = source("low", types.FLOAT, 0), source("scale", types.FLOAT, 0)
        volume = math.clamp((volume - low) * scale, 0, 1)
        z, y, x = (source(name, types.FLOAT64, 4) for name in "zyx")
        inside = math.abs(z + y + x) <= 1.0
        volume = volume * (inside[0:1] & inside[1:2] & inside[2:3])
        outputs = [volume]
        if whole:
            padded = fn.external_source(name="padded", dtype=types.INT32, ndim=1)
            outputs.append(
                fn.slice(
                    voxels,
                    start=[0, 0, 0],
                    shape=padded,
                    axis_names="DHW",
                    out_of_bounds_policy="pad",
                    dtype=types.FLOAT,
                )
            )
        pipeline.set_outputs(*outputs)
    return pipeline


def _sample(scan: Scan, grid: Grid, intensities: Range, whole: bool) -> dict[str, NDArray[Any]]:
    """One scan's inputs of the graph.

    ``matrix`` takes a position on the grid to one in the voxels as ``warp_affine`` counts them: x first, the corner
    of the first voxel at 0, so its centre at 0.5.  ``z``, ``y`` and ``x`` add up to the positions again, for the
    mask: ``[3, Z, Y, X]``, along i, j and k, scaled so that the scan's border lies at -1 and 1.
    """
    low, high = intensities
    matrix = grid_to_voxel(grid, scan.geometry)
    warp = matrix.copy()
    warp[:, 3] += 0.5 - 0.5 * matrix[:, :3].sum(axis=1)
    size = np.asarray(scan.geometry.size, dtype=np.float64)
    from_middle = matrix.copy()
    from_middle[:, 3] -= (size - 1) / 2
    from_middle /= (size / 2 + BORDER_TOLERANCE)[:, None]
    x, y, z = (from_middle[:, axis, None] * np.arange(count) for axis, count in enumerate(grid.shape))
    return {
        "voxels": np.ascontiguousarray(scan.voxels)[..., None],
        "matrix": warp.astype(np.float32),
        "size": np.asarray(grid.shape[::-1], np.int32),
        "low": np.asarray(low, np.float32),
        "scale": np.asarray(1.0 / (high - low), np.float32),
        "z": (z + from_middle[:, 3:])[:, :, None, None],
        "y": y[:, None, :, None],
        "x": x[:, None, None, :],
        **({"padded": np.asarray(padded_size(scan.voxels.shape), np.int32)} if whole else {}),
    }


def _reason(error: Exception) -> str:
    """What DALI says is wrong, without its traceback and C++ context."""
    text = str(error).split("encountered:")[-1].split("C++ context:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and "pipeline object" not in line]
    return " ".join(lines).rstrip(". ") or type(error).__name__
