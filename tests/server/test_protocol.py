"""The Open Inference Protocol: the stock tritonclient gets what trtlm infer finds; bad requests get codes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.server.conftest import Running
from trt_landmarks import Result, Scan
from trt_landmarks.bundles.bundle import Bundle


@pytest.fixture
def remote(server: Running) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.address.removeprefix("http://"))


def affine(scan: Scan) -> np.ndarray:
    return np.diag([-1.0, -1, 1, 1]) @ scan.geometry.voxel_to_world_matrix


def inputs(scan: Scan, binary: bool, dtype: str = "FP32") -> list[Any]:
    numbers = {"FP32": np.float32, "INT16": np.int16, "FP64": np.float64}[dtype]
    volume = triton.InferInput("VOLUME", scan.voxels.shape, dtype)
    volume.set_data_from_numpy(scan.voxels.astype(numbers), binary_data=binary)
    matrix = triton.InferInput("AFFINE", [4, 4], "FP64")
    matrix.set_data_from_numpy(affine(scan), binary_data=binary)
    return [volume, matrix]


def test_health_and_metadata(remote: triton.InferenceServerClient, tiny_bundle: Bundle) -> None:
    assert remote.is_server_live() and remote.is_server_ready() and remote.is_model_ready(tiny_bundle.name)
    assert remote.get_server_metadata()["name"] == "trtlm"
    metadata = remote.get_model_metadata(tiny_bundle.name)
    assert [one["name"] for one in metadata["inputs"]] == ["VOLUME", "AFFINE"] and metadata["versions"] == ["1"]
    assert not remote.is_model_ready("other")


@pytest.mark.parametrize(("binary", "dtype"), [(True, "FP32"), (True, "INT16"), (False, "FP64")])
def test_points_equal_those_of_infer(
    remote: triton.InferenceServerClient, tiny_bundle: Bundle, scan: Scan, expected: Result, binary: bool, dtype: str
) -> None:
    result = remote.infer(tiny_bundle.name, inputs(scan, binary, dtype))
    np.testing.assert_allclose(result.as_numpy("POINTS_LPS_MM"), expected.points, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.as_numpy("CONFIDENCE"), expected.confidence, atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("EXPECTED_ERROR_MM"), expected.expected_error_mm, atol=1e-6)
    assert [one.decode() for one in result.as_numpy("STATUS")] == list(expected.status)
    assert [one.decode() for one in result.as_numpy("NAMES")] == list(expected.names)


def test_outputs_as_json_on_request(
    remote: triton.InferenceServerClient, tiny_bundle: Bundle, scan: Scan, expected: Result
) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=name == "STATUS") for name in ("POINTS_LPS_MM", "STATUS")]
    result = remote.infer(tiny_bundle.name, inputs(scan, True), outputs=wanted, request_id="mine")
    assert result.get_response()["id"] == "mine" and result.as_numpy("CONFIDENCE") is None
    np.testing.assert_allclose(result.as_numpy("POINTS_LPS_MM"), expected.points, rtol=0, atol=1e-4)
    assert len(result.as_numpy("STATUS")) == len(expected.status)


def test_a_scan_that_cannot_be_used_gets_the_code_of_infer(
    remote: triton.InferenceServerClient, client: httpx.Client, tiny_bundle: Bundle, scan: Scan
) -> None:
    volume, matrix = inputs(scan, True)
    volume.set_data_from_numpy(np.zeros(scan.voxels.shape, np.float32))
    with pytest.raises(Exception, match="every voxel is 0"):
        remote.infer(tiny_bundle.name, [volume, matrix])
    flat = {"name": "VOLUME", "shape": [2, 2, 2], "datatype": "FP32", "data": [1] * 8}
    frame = {"name": "AFFINE", "shape": [4, 4], "datatype": "FP64", "data": np.eye(4).ravel().tolist()}
    answer = client.post(f"/v2/models/{tiny_bundle.name}/infer", json={"inputs": [flat, frame]})
    assert (answer.status_code, answer.json()["code"]) == (422, "scan_constant")


GOOD: dict[str, Any] = {
    "inputs": [
        {"name": "VOLUME", "shape": [2, 2, 2], "datatype": "FP32", "data": list(range(8))},
        {"name": "AFFINE", "shape": [4, 4], "datatype": "FP64", "data": np.eye(4).ravel().tolist()},
    ]
}


def changed(index: int, **values: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(GOOD))
    content["inputs"][index].update(values)
    return dict(content)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"inputs": []},
        {"inputs": 3},
        {"inputs": GOOD["inputs"][:1]},
        changed(0, shape=[2, 2, 3]),
        changed(0, shape=[-2, 2, -2]),
        changed(0, shape=[1 << 50, 1 << 50, 1 << 50], data=[]),
        changed(0, datatype="BYTES"),
        changed(0, data=["a"] * 8),
        changed(0, parameters={"binary_data_size": 8}),
        changed(0, parameters={"binary_data_size": "8"}),
        changed(1, shape=[16]),
        changed(1, name="OTHER"),
        {**GOOD, "outputs": [{"name": "NONE"}]},
    ],
)
def test_a_bad_request_is_refused(client: httpx.Client, tiny_bundle: Bundle, content: dict[str, Any]) -> None:
    answer = client.post(f"/v2/models/{tiny_bundle.name}/infer", json=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "request_invalid")


def test_a_model_or_version_that_is_not_served(client: httpx.Client, tiny_bundle: Bundle) -> None:
    for path in ("/v2/models/none", f"/v2/models/{tiny_bundle.name}/versions/2"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "model_missing")
