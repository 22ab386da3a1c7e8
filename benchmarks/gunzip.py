"""Decompression of real .gz scans: what this toolkit uses, and what else there is.

    python -m benchmarks.gunzip SCANS --out benchmarks/results/gunzip

Every round decompresses every file with every library that is installed, in turn, from memory to memory; the bytes are
compared first.  ``SimpleITK`` reads the file itself, header and all, as it does without this toolkit.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.metadata
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.bench.machine import seconds
from trt_landmarks.bench.statistics import ratio, spread
from trt_landmarks.scan import find_scans, read_scan

Gunzip = Callable[[bytes], bytes]

#: Bits of zlib's window, and that a gzip header is expected.
GZIP = zlib.MAX_WBITS | 16


def _isal() -> Gunzip:
    library = importlib.import_module("isal.isal_zlib")
    return lambda content: bytes(library.decompress(content, GZIP))


def _isal_threads() -> Gunzip:
    library = importlib.import_module("isal.igzip_threaded")

    def run(content: bytes) -> bytes:
        with library.open(io.BytesIO(content), "rb", threads=1) as stream:
            return bytes(stream.read())

    return run


def _zlib_ng() -> Gunzip:
    library = importlib.import_module("zlib_ng.zlib_ng")
    return lambda content: bytes(library.decompress(content, GZIP))


def _deflate() -> Gunzip:
    library = importlib.import_module("deflate")
    # The last four bytes of a gzip member are the size of what it holds (RFC 1952).
    return lambda content: bytes(library.gzip_decompress(content, int.from_bytes(content[-4:], "little")))


def _rapidgzip() -> Gunzip:
    library = importlib.import_module("rapidgzip")

    def run(content: bytes) -> bytes:
        with library.open(io.BytesIO(content), parallelization=0) as stream:
            return bytes(stream.read())

    return run


#: Name to what imports the library, and its distribution.
LIBRARIES: dict[str, tuple[Callable[[], Gunzip], str]] = {
    "gzip": (lambda: gzip.decompress, ""),
    "zlib": (lambda: lambda content: zlib.decompress(content, GZIP), ""),
    "isal": (_isal, "isal"),
    "isal, threaded": (_isal_threads, "isal"),
    "zlib-ng": (_zlib_ng, "zlib-ng"),
    "libdeflate": (_deflate, "deflate"),
    "rapidgzip": (_rapidgzip, "rapidgzip"),
}


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gunzip"))
    parser.add_argument("--count", type=int, default=10, help="files")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    paths = [file.path for file in find_scans([options.scans]) if file.path.name.endswith(".gz")][: options.count]
    if not paths:
        parser.error(f"{options.scans}: holds no .gz scans")
    contents = [path.read_bytes() for path in paths]
    expected = [gzip.decompress(content) for content in contents]
    size = sum(map(len, expected))
    actions, missing, versions = _actions(contents, expected)

    import SimpleITK as sitk  # noqa: N813

    actions["SimpleITK: read"] = lambda: [sitk.ReadImage(str(path)) for path in paths]
    actions["read_scan"] = lambda: [read_scan(path) for path in paths]
    names = list(actions)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for action in actions.values():
        action()  # warm
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(seconds(actions[name]))
    rows: list[dict[str, Any]] = [
        {
            "library": name, "version": versions.get(name),
            "ms_per_file": spread(1000 * np.array(taken[name]) / len(paths)),
            "mb_per_second": spread(size / 1e6 / np.array(taken[name])),
            "times_as_fast_as_gzip": ratio(taken["gzip"], taken[name]).to_dict(),
        }
        for name in names
    ]  # fmt: skip
    report: dict[str, Any] = {
        "machine": this_machine(), "files": len(paths), "rounds": options.rounds,
        "bytes": {"compressed": sum(map(len, contents)), "decompressed": size}, "rows": rows, "not_installed": missing,
    }  # fmt: skip
    cells = [
        [row["library"], row["version"] or "", row["ms_per_file"]["median"], f"{row['mb_per_second']['median']:.0f}",
         f"{row['times_as_fast_as_gzip']['value']:.2f} ({row['times_as_fast_as_gzip']['low'] or 0:.2f} to "
         f"{row['times_as_fast_as_gzip']['high'] or 0:.2f})"]
        for row in rows
    ]  # fmt: skip
    lines = [
        f"{report['machine']['cores']} cores, {report['machine']['processor']}; {len(paths)} files of "
        f"{size / len(paths) / 1e6:.1f} MB ({len(contents[0]) / 1e6:.1f} MB compressed), {options.rounds} rounds.",
        "",
        *table(["library", "version", "ms a file", "MB/s", "times as fast as gzip (95 %)"], cells),
        "",
        f"Not installed: {', '.join(missing) or 'none'}.",
    ]
    write_results(options.out, report, lines)


def _actions(
    contents: list[bytes], expected: list[bytes]
) -> tuple[dict[str, Callable[[], object]], list[str], dict[str, str]]:
    """What decompresses all files, by the libraries' names; which are not installed; their versions."""
    actions: dict[str, Callable[[], object]] = {}
    missing, versions = [], {}
    for name, (load, distribution) in LIBRARIES.items():
        try:
            gunzip = load()
        except ImportError:
            missing.append(name)
            continue
        if distribution:
            versions[name] = importlib.metadata.version(distribution)
        if [gunzip(content) for content in contents] != expected:
            raise SystemExit(f"{name} does not give what gzip gives")
        actions[name] = lambda gunzip=gunzip: [gunzip(content) for content in contents]  # type: ignore[misc]
    return actions, missing, versions


if __name__ == "__main__":
    main()
