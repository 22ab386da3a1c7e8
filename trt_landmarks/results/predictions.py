"""The results file: what was found in which scan, by which model and engine.

``predictions.schema.json`` beside this module describes the file for other tools (JSON Schema 2020-12).  It is made
from the records: ``make schemas``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import read_json, replacing
from trt_landmarks.results.case import REQUIRED, CaseResult, Text, check_distinct, read_case

SCHEMA_VERSION = "1"
#: What the file has.
TOP = ("schema_version", "task", "model", "engine", "cases")
#: The largest results file that is read: some 100,000 cases.
MAX_BYTES = 4 << 30

#: The file's JSON Schema.
SCHEMA_FILE = Path(__file__).with_name("predictions.schema.json")


@dataclass
class Predictions:
    """The whole results file; cases may be appended until it is written.

    Attributes:
        task: the task's name.
        model: ``name`` and what else identifies it: ``path``, ``sha256``, ...
        engine: ``name``, ``precision``, ``provider``, ``note``.
        cases: one per scan, failed ones included.
        run: what else made them: ``version`` of the product, ``versions`` of packages, ``settings``, ``measurements``;
            empty if it is not known.
    """

    task: str
    model: dict[str, Any]
    engine: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    def _check_ids(self) -> None:
        try:
            check_distinct((case.id for case in self.cases), "case")
        except ValueError as error:
            raise PredictionsError(f"{error}.") from None

    def add(self, cases: Sequence[CaseResult]) -> None:
        """Append cases; those that were appended just before count once (:data:`trt_landmarks.runs.batch.Keep`)."""
        if cases and not (self.cases and self.cases[-1] is cases[-1]):
            self.cases += cases

    def to_dict(self) -> dict[str, Any]:
        """As in the file.

        Raises:
            PredictionsError: if two cases have the same id.
        """
        self._check_ids()
        return {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "model": self.model,
            "engine": self.engine,
            **({"run": self.run} if self.run else {}),
            "cases": [case.to_dict() for case in self.cases],
        }

    @classmethod
    def from_dict(cls, content: Any) -> Predictions:
        """Check and read the file's content.

        Raises:
            PredictionsError: naming the wrong field, e.g. ``cases[3]: landmarks[0]: ...``.
        """
        if isinstance(content, dict) and content.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise PredictionsError(
                f"schema_version is {content['schema_version']!r}; this version reads {SCHEMA_VERSION!r}.",
                "Read it with the version that wrote it, or predict again.",
            )
        if not isinstance(content, dict):
            raise PredictionsError("is not an object with named fields.")
        lacking = [key for key in TOP if key not in content]
        unknown = [key for key in content if key not in (*TOP, "run")]
        if lacking or unknown:
            raise PredictionsError(f"lacks {', '.join(lacking)}." if lacking else f"unknown key {', '.join(unknown)}.")
        for key in ("model", "engine"):
            if not isinstance(content[key], dict) or not _is_text(content[key].get("name")):
                raise PredictionsError(f"{key}: has no name.")
        if not _is_text(content["task"]):
            raise PredictionsError("task: is not a text.")
        if not isinstance(content["cases"], list):
            raise PredictionsError("cases: is not a list.")
        cases = [read_case(case, f"cases.{number}") for number, case in enumerate(content["cases"])]
        run = content.get("run", {})
        if not isinstance(run, dict):
            raise PredictionsError("run: is not an object with named fields.")
        predictions = cls(content["task"], content["model"], content["engine"], cases, run)
        predictions._check_ids()
        return predictions

    def write(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            PredictionsError: if the file cannot be written, or ``model`` or ``engine`` are not plain JSON data.
        """
        self._check_ids()
        self.write_with(path, map(encode_case, self.cases))

    def write_with(self, path: str | Path, cases: Iterable[bytes]) -> None:
        """Write the file with other cases than its own, which need not be in memory together.

        Args:
            path: where to.
            cases: as :func:`encode_case` gives them, with distinct ids.

        Raises:
            PredictionsError: as :meth:`write`.
        """
        try:
            frame = _json(Predictions(self.task, self.model, self.engine, run=self.run).to_dict())
        except (TypeError, ValueError) as error:
            raise PredictionsError(f"{path}: model or engine cannot be written as JSON: {error}.") from None
        with replacing(path, PredictionsError) as stream:
            stream.write(_encoded(frame.removesuffix("]\n}")))
            separator = b""
            for case in cases:
                stream.write(separator + b"\n  " + case)
                separator = b","
            stream.write(b"\n ]\n}\n" if separator else b"]\n}\n")


def encode_case(case: CaseResult) -> bytes:
    """A case as it stands in the file, indented; line breaks are the only control characters.

    Raises:
        ValueError: if a number is not finite.
        TypeError: if it holds what JSON does not.
    """
    return _encoded(_json(case.to_dict()).replace("\n", "\n  "))


def read_predictions(path: str | Path) -> Predictions:
    """Read and check a results file.

    Raises:
        PredictionsError: naming the file, and the line or field that is wrong.
    """
    content = read_json(path, PredictionsError, "results file", MAX_BYTES)
    try:
        return Predictions.from_dict(content)
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error.message}", error.remedy) from None


def predictions_schema() -> dict[str, Any]:
    """The results file's JSON Schema (2020-12), made from the records."""
    from pydantic import TypeAdapter

    case = TypeAdapter(CaseResult).json_schema(ref_template="#/$defs/{model}")
    records = case.pop("$defs")
    case["required"] = list(REQUIRED)
    text = TypeAdapter(Text).json_schema()
    known = {key: {"type": ["string", "null"]} for key in ("path", "sha256", "precision", "provider", "note")}

    def described(description: str, *keys: str) -> dict[str, Any]:
        properties = {"name": text, **{key: known[key] for key in keys}}
        return {"description": description, "type": "object", "required": ["name"], "properties": properties}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Landmark predictions",
        "description": "Anatomical landmarks found in 3D scans. Positions are LPS mm: x to the patient's left, "
        "y to the back, z up.",
        "type": "object",
        "additionalProperties": False,
        "required": list(TOP),
        "properties": {
            "schema_version": {"const": SCHEMA_VERSION},
            "task": {**text, "description": "Name of the task."},
            "model": described("What predicted. Further fields identify it more closely.", "path", "sha256"),
            "engine": described(
                "On what it ran. Further fields describe it more closely.", "precision", "provider", "note"
            ),
            "run": {
                "description": "What else made the results: versions of the product and of packages, settings, "
                "measurements.",
                "type": "object",
                "properties": {
                    "version": {"type": "string", "description": "Of the product."},
                    "versions": {"type": "object", "additionalProperties": {"type": "string"}},
                    "settings": {"type": "object"},
                    "measurements": {"type": "array", "items": {"type": "object"}},
                },
            },
            "cases": {
                "description": "One entry per scan, with distinct ids; failed scans are listed too.",
                "type": "array",
                "items": {"$ref": "#/$defs/CaseResult"},
            },
        },
        "$defs": {"CaseResult": case, **records},
    }


def write_schema(path: Path = SCHEMA_FILE) -> None:
    """Write the JSON Schema: ``make schemas``."""
    path.write_text(json.dumps(predictions_schema(), indent=1) + "\n", encoding="utf-8")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def _encoded(content: str) -> bytes:
    """UTF-8; what a file name has that is not text (a lone surrogate) becomes JSON's escape for it."""
    return content.encode("utf-8", "backslashreplace")
