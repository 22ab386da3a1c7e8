"""Results that name nobody."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scan.dicom_writing import write_series
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.cli import app
from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, ScanFile, write_scan
from trt_landmarks.scan.anonymize import anonymize, nameless, read_key, reason

GEOMETRY = Geometry((20, 22, 24), (0.9, 1.0, 1.1), (-3.0, 4.0, 5.0), np.eye(3))
FILES = [ScanFile("DOE_JOHN", Path("/data/DOE_JOHN/1.nii")), ScanFile("ROE", Path("ROE"), "1.2.3")]


def test_hashes_are_keyed() -> None:
    key = b"0123456789abcdef"
    hidden = anonymize(FILES, key)
    digest = hmac.new(key, b"DOE_JOHN", hashlib.sha256).hexdigest()
    assert hidden[0].id == hidden[0].shown == "case-" + digest[:12]
    assert [file.path for file in hidden] == [file.path for file in FILES] and hidden[1].series == "1.2.3"
    assert anonymize(FILES, key) == hidden
    assert anonymize(FILES, key + b"0")[0].id != hidden[0].id
    assert anonymize(FILES)[0].id != anonymize(FILES)[0].id
    assert len({file.id for file in hidden}) == 2


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content, code in ((None, "key_invalid"), (b"short\n", "key_invalid")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ScanError) as caught:
            read_key(path)
        assert caught.value.code == code
    path.write_bytes(b"  0123456789abcdef \n")
    assert read_key(path) == b"0123456789abcdef"


def test_errors_keep_code_and_remedy() -> None:
    error = ScanError("/data/DOE_JOHN/1.nii: voxels are in 'JOHN.raw'.", "Copy both.", code="scan_missing")
    assert reason(FILES[0], error) == str(error)
    (hidden,) = anonymize(FILES[:1])
    assert reason(hidden, error) == f"{hidden.id}: cannot be used: scan_missing. Copy both."
    with pytest.raises(ScanError) as caught, nameless():
        raise error
    assert str(caught.value) == "the scans cannot be listed: scan_missing. Copy both."
    assert caught.value.code == "scan_missing"


def brain(seed: int) -> Scan:
    return Scan("x", None, np.random.default_rng(seed).integers(0, 255, (24, 22, 20), dtype=np.uint8), GEOMETRY)


def patients(folder: Path) -> Path:
    """A patient's export: two good scans, a damaged one, a header without voxels, and a series with copies."""
    root = folder / "DOE_JOHN"
    root.mkdir()
    for n, name in enumerate(("DOE_1.nii.gz", "DOE_2.mha", "DOE_3.mhd", "DOE_4.nii.gz")):
        write_scan(brain(n), root / name)
    next(path for path in root.iterdir() if path.suffix in (".raw", ".zraw")).unlink()
    whole = (root / "DOE_4.nii.gz").read_bytes()
    (root / "DOE_4.nii.gz").write_bytes(whole[: len(whole) // 2])
    tags = {"0010|0010": "DOE^JOHN", "0010|0020": "DOE-1234567"}
    paths = write_series(root / "DOE_5", brain(7), suffix="", tags=tags)
    (root / "DOE_5" / "copy").write_bytes(paths[3].read_bytes())
    write_series(root / "DOE_6", brain(8), tags=tags)[3].write_bytes(b"DOE")
    return root


def run(*arguments: object, code: int, stdin: str | None = None) -> str:
    done = CliRunner().invoke(app, ["infer", *map(str, arguments)], input=stdin)
    assert done.exit_code == code, done.output
    return done.output


def test_nothing_that_is_written_or_printed_names_a_patient(tiny_bundle: Bundle, tmp_path: Path) -> None:
    root, out, key = patients(tmp_path), tmp_path / "p.json", tmp_path / "key"
    common = ("--out", out, "--model", tiny_bundle.root)
    run(root, *common, code=1)
    named = json.loads(out.read_text())["cases"]
    states = {case["id"]: case["status"] for case in named}
    assert states == {f"DOE_{n}": "ok" if n in (1, 2, 5) else "failed" for n in range(1, 7)}
    assert "1234567" not in out.read_text()  # of a DICOM tag
    (warning,) = named[4]["warnings"]
    assert warning["code"] == "duplicate_slices"

    texts = []
    for more in (("--anonymize",), ("--anonymize",)):
        printed = run(root, *common, *more, code=1)
        assert "DOE" not in printed and str(root) not in printed
        texts.append(out.read_text())
        assert "DOE" not in texts[-1] and str(tmp_path / "D") not in texts[-1]
    assert texts[0] != texts[1]  # the key is of one run
    hidden = json.loads(texts[1])["cases"]
    assert [case["landmarks"] for case in hidden] == [case["landmarks"] for case in named]
    assert [case["warnings"] for case in hidden] == [case["warnings"] for case in named]
    for one, other in zip(hidden, named, strict=True):
        assert one["path"] == one["id"] and one["id"].startswith("case-") and len(one["id"]) == 17
        if one["error"]:
            assert one["error"]["code"] == other["error"]["code"]
            assert one["error"]["message"].startswith(one["id"])

    key.write_text("0123456789abcdef0123456789abcdef")
    first = [run(root / "DOE_2.mha", *common, "--anonymize-key", key, code=0), json.loads(out.read_text())["cases"]]
    again = [run(root / "DOE_2.mha", *common, "--anonymize-key", key, code=0), json.loads(out.read_text())["cases"]]
    assert first[1][0]["id"] == again[1][0]["id"] != "DOE_2"  # type: ignore[index]


def test_a_missing_folder_is_not_named_either(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["infer", str(tmp_path / "DOE"), "--out", "p.json", "--anonymize"])
    assert done.exit_code != 0 and "DOE" not in str(done.exception)


def test_options_of_the_command(tiny_bundle: Bundle, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "p.json"
    write_series(root / "ct", brain(0), "1.2.3", number="1")
    write_series(root / "ct", brain(1), "1.2.4", number="2")
    write_scan(brain(2), root / "b.mha")
    write_scan(brain(2), root / "b.nrrd")
    common = ("--out", out, "--model", tiny_bundle.root, "--quiet")

    def ids() -> list[str]:
        return [case["id"] for case in json.loads(out.read_text())["cases"]]

    run(root, *common, "--include", "*.mha", "--include", "ct", "--exclude", "*.nrrd", code=0)
    assert ids() == ["b", "ct_s1", "ct_s2"]
    run(root, *common, "--series", "2", "--exclude", "b*", code=0)
    assert ids() == ["ct_s2"]
    run("-", *common, "--series", "1", code=0, stdin=f"{root}/ct\n{root}/b.mha\n{root}/b.nrrd\n")
    assert ids() == ["ct_s1", "in_b", "in_b_2"]
    (tmp_path / "list.csv").write_text("path,id\nin/b.mha,mine\nin/gone.nii,lost\n")
    run(tmp_path / "list.csv", *common, code=1)
    assert ids() == ["mine", "lost"]
