"""Packs what a visit to a GPU machine without a network needs, in parts that can be carried one by one.

    python -m benchmarks.pack --out .gpu --scans DIR [--wheels DIR] [--builds DIR] [--count 5] [--limit 64]

Packed are the project's committed files, the first scans, and where they are named a folder of wheels
(``pip download`` fills it: TensorRT for RTX, DALI, PyCUDA, pydantic, isal, SimpleITK, pydicom and what they need) and a
folder of builds that were made ahead (``TRTLM_CACHE=DIR trtlm build ...``).  ``visit.sh`` is packed with them: the one
command of the visit, which installs beside what is there, and leaves the doctor's words and the report of
:mod:`benchmarks.gpu_check` in the folder it is given.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from trt_landmarks.errors import TrtlmError
from trt_landmarks.scan import find_scans

VISIT = """#!/bin/sh
# Run in the folder that the parts were unpacked in: cat part-* | tar xf - && sh visit.sh OUT
out=${1:?folder for the results}
mkdir -p "$out"
if ls wheels/*.whl >/dev/null 2>&1; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target site wheels/*.whl || exit 2
fi
here=$(pwd)
export PYTHONPATH="$here/site:$here/project${PYTHONPATH:+:$PYTHONPATH}"
[ -d builds ] && export TRTLM_CACHE="$here/builds"
cd project || exit 2
python3 -m trt_landmarks.doctor > "$out/doctor.txt" 2>&1
python3 -m benchmarks.gpu_check --scans "$here/scans" --out "$out" > "$out/log.txt" 2>&1
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives part-00, part-01, ...")
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--builds", type=Path)
    parser.add_argument("--count", type=int, default=5, help="scans")
    parser.add_argument("--limit", type=float, default=64.0, help="MiB of a part, less than")
    options = parser.parse_args(arguments)
    try:
        scans = [file.path for file in find_scans([options.scans])[: options.count]]
        options.out.mkdir(parents=True, exist_ok=True)
        for old in options.out.glob("part-*"):
            old.unlink()
        folders = {"wheels": options.wheels, "builds": options.builds}
        with Parts(options.out, int(options.limit * 2**20) - 1) as parts, tarfile.open(fileobj=parts, mode="w|") as tar:
            for name, path in _files(scans, {name: path for name, path in folders.items() if path is not None}):
                tar.add(path, name, recursive=False)
            visit = tarfile.TarInfo("visit.sh")
            visit.size = len(VISIT)
            tar.addfile(visit, io.BytesIO(VISIT.encode()))
    except (OSError, TrtlmError, subprocess.CalledProcessError) as error:
        print(f"Nothing to carry: {error}", file=sys.stderr)
        return 2
    for part in sorted(options.out.glob("part-*")):
        print(f"{part}: {part.stat().st_size / 2**20:.1f} MiB")
    return 0


def _files(scans: list[Path], folders: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Names in the archive, and files."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        yield f"project/{name}", Path(name)
    for scan in scans:
        yield f"scans/{scan.name}", scan
    for folder, path in folders.items():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield f"{folder}/{file.relative_to(path).as_posix()}", file


class Parts(io.RawIOBase):
    """Writes a stream as files ``part-00``, ``part-01``, ... of at most ``size`` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size, self._count, self._left = folder, size, 0, 0
        self._file: io.BufferedWriter | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        rest = memoryview(data)  # type: ignore[arg-type]
        while rest:
            if self._file is None or not self._left:
                if self._file is not None:
                    self._file.close()
                self._file = (self._folder / f"part-{self._count:02}").open("wb")
                self._count, self._left = self._count + 1, self._size
            piece = rest[: self._left]
            self._file.write(piece)
            self._left -= len(piece)
            rest = rest[len(piece) :]
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


if __name__ == "__main__":
    raise SystemExit(main())
