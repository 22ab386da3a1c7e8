"""Packed graphs: the same bytes again, everywhere, or a refusal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trt_landmarks.bundles.bundle import Bundle, open_bundle, write_bundle
from trt_landmarks.bundles.packing import Integers, pack, read_packed, unpack
from trt_landmarks.errors import BundleError
from trt_landmarks.export.packing import pack_graphs
from trt_landmarks.files import file_sha256


def weights(largest: int, shared: bool, seed: int = 0) -> Integers:
    rng = np.random.default_rng(seed)
    values = rng.integers(-largest, largest + 1, (12, 5)).astype(np.int32)
    scale = rng.random(12).astype(np.float32)
    if not shared:
        return Integers(values, scale)
    return Integers(values, scale, rng.integers(-127, 128, (4, 5)).astype(np.int8), rng.random(12).astype(np.float32))


def test_a_weight_is_scale_times_integer_plus_the_shared_part() -> None:
    weight = weights(127, True)
    assert weight.shared is not None and weight.shared_scale is not None
    row = weight.scale[9] * weight.values[9].astype(np.float32) + weight.shared_scale[9] * weight.shared[1]
    np.testing.assert_array_equal(weight.array()[9], row.astype(np.float32))


@pytest.mark.parametrize("largest", [1, 127, 128, 1000, 16383])
def test_every_byte_comes_back(largest: int) -> None:
    first, second = weights(largest, True), weights(largest, False, seed=1)
    arrays = [weight.array().tobytes() for weight in (first, second)]
    plain = b"head" + arrays[0] + b"between" + arrays[1] + b"end"
    packed = pack(plain, {4: first, 11 + len(arrays[0]): second})
    assert unpack(packed) == plain
    skeleton, tensors = read_packed(packed)
    assert skeleton == b"headbetweenend" and pack(plain, tensors) == packed
    assert unpack(pack(b"no weights", {})) == b"no weights"


def test_other_weights_are_not_packed() -> None:
    weight = weights(127, False)
    with pytest.raises(ValueError, match="not in the plain file"):
        pack(b"x" * 300, {1: weight})


def test_damaged_files_are_refused() -> None:
    weight = weights(1000, True)
    packed = pack(weight.array().tobytes(), {0: weight})
    for content in (b"", packed[:5], packed[:60], packed[:-9], packed[:-1], b"\xff" * 8 + packed[8:], packed[:8]):
        with pytest.raises(ValueError, match=r".+"):
            unpack(content)


@pytest.fixture
def compact(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a compact bundle whose graphs are packed as they are; the cache folder is the test's own."""
    monkeypatch.setenv("TRTLM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "compact"
    shutil.copytree(tiny_bundle.root, root)
    graphs, cpu_graphs = tiny_bundle.manifest["graphs"], tiny_bundle.manifest["cpu_graphs"]
    packed = pack_graphs(root, [*graphs.values(), *cpu_graphs.values()], {})
    text = (root / "task.yaml").read_text()
    write_bundle(root, "tiny", text, tiny_bundle.mean_shape, graphs, cpu_graphs, {}, packed)
    return root


def test_engines_see_the_plain_files(compact: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = open_bundle(compact)
    assert bundle.packed and not (tmp_path / "cache").exists()  # nothing is unpacked before it is needed
    for ours, theirs in ((bundle.graphs, tiny_bundle.graphs), (bundle.cpu_graphs, tiny_bundle.cpu_graphs)):
        assert set(ours) == set(theirs)
        for graph, path in ours.items():
            assert path.read_bytes() == theirs[graph].read_bytes()
            assert path.is_relative_to(tmp_path / "cache" / "unpacked")
            assert bundle.digests[path.relative_to(bundle.graphs_root).as_posix()] == file_sha256(path)


def test_a_damaged_packed_file_is_refused(compact: Path) -> None:
    path = compact / "graphs" / "coarse.onnx.packed"
    good = path.read_bytes()
    for content in (good[:-1] + bytes([good[-1] ^ 1]), good[:100], pack(b"another graph", {})):
        path.write_bytes(content)
        with pytest.raises(BundleError) as caught:
            open_bundle(compact)
        assert caught.value.code == "bundle_tampered"
        with pytest.raises(BundleError) as caught:
            _ = open_bundle(compact, verify=False).graphs
        assert caught.value.code == "bundle_tampered"
    path.unlink()
    with pytest.raises(BundleError, match=r"coarse\.onnx\.packed"):
        _ = open_bundle(compact, verify=False).graphs


def test_a_changed_unpacked_file_is_made_again(compact: Path) -> None:
    path = open_bundle(compact).graphs["coarse"]
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert open_bundle(compact).graphs["coarse"].read_bytes() == good
    path.unlink()
    assert open_bundle(compact).graphs["coarse"].read_bytes() == good
    before = path.stat().st_mtime_ns
    assert open_bundle(compact).graphs["coarse"].stat().st_mtime_ns == before  # an unchanged one is not


def test_without_a_cache_the_folder_is_temporary(
    compact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    code = f"from trt_landmarks.bundles.bundle import open_bundle; b = open_bundle({str(compact)!r});"
    code += "print(b.graphs['coarse'].stat().st_size, b.graphs_root)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, folder = done.stdout.split()
    assert int(size) > 0 and not Path(folder).exists()  # removed when the process ended
    assert "TRTLM_CACHE" in done.stderr


def test_two_processes_unpack_at_once(compact: Path) -> None:
    code = (
        f"from trt_landmarks.bundles.bundle import open_bundle; print(open_bundle({str(compact)!r}).graphs['coarse'])"
    )
    pair = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({process.communicate()[0] for process in pair}) == 1
    assert [process.returncode for process in pair] == [0, 0]
    bundle = open_bundle(compact)
    left = {path for path in bundle.graphs_root.rglob("*") if path.is_file()}
    assert left == {bundle.graphs_root / file for file in bundle.packed}  # no temporary files


@pytest.mark.parametrize("row", [{}, "none", {"file": "../x", "sha256": "0"}, {"file": "graphs/x", "sha256": "0"}])
def test_a_wrong_manifest_is_refused(compact: Path, row: object) -> None:
    import json

    path = compact / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["packed"]["graphs/coarse.onnx"] = row
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        open_bundle(compact)
