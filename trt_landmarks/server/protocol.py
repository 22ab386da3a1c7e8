"""The Open Inference Protocol v2 (KServe, Triton): metadata, and tensors as JSON or as bytes behind it.

Inputs: ``VOLUME`` ``[k, j, i]`` and ``AFFINE`` ``[4, 4]``, from voxel (i, j, k, 1) to RAS mm, as nibabel has it.
Outputs: see :data:`OUTPUTS`; N landmarks in the task's order.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks import __version__
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.results.case import CaseResult
from trt_landmarks.server.jobs import Volume

#: Tells where the JSON ends and the bytes begin, of requests and of answers.
HEADER_LENGTH = "Inference-Header-Content-Length"
#: Bytes of JSON in a request, at most: as text, numbers take many times the memory of the volume.
MOST_JSON = 256 << 20

_TYPES = {
    "UINT8": "u1", "INT8": "i1", "UINT16": "<u2", "INT16": "<i2", "UINT32": "<u4", "INT32": "<i4", "FP32": "<f4",
    "FP64": "<f8",
}  # fmt: skip
#: Name, type and shape of what comes out; N landmarks, W warnings.  What is not known is NaN, in JSON null.
OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "POINTS_LPS_MM": ("FP64", [-1, 3]),
    "CONFIDENCE": ("FP64", [-1]),
    "EXPECTED_ERROR_MM": ("FP64", [-1]),
    "ERROR_90_MM": ("FP64", [-1]),
    "STATUS": ("BYTES", [-1]),
    "NAMES": ("BYTES", [-1]),
    "WARNINGS": ("BYTES", [-1]),
}


def server_metadata() -> dict[str, Any]:
    """What the server says of itself."""
    return {"name": "trtlm", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(bundle: Bundle) -> dict[str, Any]:
    """What the server says of a model; the volume may have any of the types, FP32 is the one that is stated."""
    inputs = [
        {"name": "VOLUME", "datatype": "FP32", "shape": [-1, -1, -1]},
        {"name": "AFFINE", "datatype": "FP64", "shape": [4, 4]},
    ]
    outputs = [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in OUTPUTS.items()]
    return {"name": bundle.name, "versions": ["1"], "platform": "trtlm", "inputs": inputs, "outputs": outputs}


def decode(body: memoryview, header_length: str | None) -> tuple[Volume, dict[str, Any]]:
    """The volume of a request, and its JSON part.

    Args:
        body: the whole body.
        header_length: bytes of the JSON in front of it; None if it is all JSON.

    Raises:
        TrtlmError: if it is no request for landmarks, with code ``request_invalid``.
    """
    if header_length is not None and not (header_length.isdecimal() and int(header_length) <= len(body)):
        raise _invalid(f"{HEADER_LENGTH} is not a length within the body")
    end = len(body) if header_length is None else int(header_length)
    if end > MOST_JSON:
        raise TrtlmError("the JSON is too long.", "Send tensors as bytes.", code="upload_too_large")
    try:
        request = json.loads(bytes(body[:end]))
        tensors: dict[str, NDArray[Any]] = {}
        for tensor in request["inputs"]:
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            data = None if size is None else body[end : end + _count(size)]
            end += 0 if data is None else len(data)
            if data is not None and len(data) != size:
                raise _invalid(f"the bytes of {tensor['name']} are missing")
            tensors[str(tensor["name"])] = _array(tensor, data)
        if end != len(body):
            raise _invalid("there are more bytes than its tensors have")
        volume, affine = tensors.pop("VOLUME"), tensors.pop("AFFINE")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise _invalid(f"{type(error).__name__}: {str(error)[:100]}") from None
    if tensors:
        raise _invalid(f"unknown inputs: {', '.join(tensors)[:100]}")
    if affine.shape != (4, 4):
        raise _invalid("AFFINE is not 4 x 4")
    return Volume(volume, affine.astype(np.float64)), request


def _array(tensor: dict[str, Any], data: memoryview | None) -> NDArray[Any]:
    shape = tuple(_count(size) for size in tensor["shape"])
    if tensor["datatype"] not in _TYPES:
        raise _invalid(f"datatype {str(tensor['datatype'])[:20]} is not one of {', '.join(_TYPES)}")
    dtype = np.dtype(_TYPES[tensor["datatype"]])
    if data is not None:
        return np.frombuffer(data, dtype).reshape(shape)
    return np.array(tensor["data"], dtype).reshape(shape)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise _invalid("a size is not a number")
    return value


def _invalid(why: str) -> TrtlmError:
    remedy = "Send VOLUME [k, j, i] and AFFINE [4, 4], from (i, j, k, 1) to RAS mm."
    return TrtlmError(f"the request cannot be used: {why}.", remedy, code="request_invalid")


def encode(bundle: Bundle, case: CaseResult, request: dict[str, Any], id: str) -> tuple[bytes, int | None]:
    """An answer: its body, and the length of the JSON in front of bytes; None if it is all JSON.

    Args:
        bundle: the model.
        case: the result.
        request: the JSON part of the request, which says what is wanted and how.
        id: of the request, if it has none of its own.

    Raises:
        TrtlmError: if it asks for an output that there is not.
    """
    known = _values(case)
    all_binary = bool((request.get("parameters") or {}).get("binary_data_output"))
    wanted = request.get("outputs") or [{"name": name} for name in OUTPUTS]
    outputs, buffers = [], []
    for one in wanted:
        name = one.get("name") if isinstance(one, dict) else None
        if name not in known:
            raise _invalid(f"there is no output {str(name)[:40]}")
        value = known[name]
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name][0], "shape": list(value.shape)}
        if (one.get("parameters") or {}).get("binary_data", all_binary):
            content = _bytes(value)
            output["parameters"] = {"binary_data_size": len(content)}
            buffers.append(content)
        else:
            output["data"] = [None if one != one else one for one in value.ravel().tolist()]
        outputs.append(output)
    answer = {"model_name": bundle.name, "model_version": "1", "id": str(request.get("id") or id), "outputs": outputs}
    head = json.dumps(answer, allow_nan=False).encode()
    return b"".join((head, *buffers)), len(head) if buffers else None


def _values(case: CaseResult) -> dict[str, NDArray[Any]]:
    marks = case.landmarks

    def numbers(name: str) -> NDArray[Any]:
        values = [getattr(mark, name) for mark in marks]
        return np.array([np.nan if value is None else value for value in values], np.float64)

    return {
        "POINTS_LPS_MM": np.array([mark.position_lps_mm for mark in marks], np.float64).reshape(-1, 3),
        "CONFIDENCE": numbers("confidence"),
        "EXPECTED_ERROR_MM": numbers("expected_error_mm"),
        "ERROR_90_MM": numbers("error_90_mm"),
        "STATUS": np.array([mark.status for mark in marks], object),
        "NAMES": np.array([mark.name for mark in marks], object),
        "WARNINGS": np.array([warning.code for warning in case.warnings], object),
    }


def _bytes(value: NDArray[Any]) -> bytes:
    if value.dtype != object:
        return value.tobytes()
    texts = [text.encode() for text in value.tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
