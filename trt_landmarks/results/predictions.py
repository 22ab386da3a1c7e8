"""The results file: what was found in which scan, by which model and engine.

``predictions.schema.json`` beside this module describes the file for other tools (JSON Schema 2020-12).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import read_text, replacing
from trt_landmarks.results.case import CaseResult, read_case
from trt_landmarks.results.fields import each, fields, inside, mapping, no_duplicates, text

SCHEMA_VERSION = "1"

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
    """

    task: str
    model: dict[str, Any]
    engine: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)

    def add(self, cases: Sequence[CaseResult]) -> None:
        """Append cases; those that were appended just before count once (:data:`trt_landmarks.runs.batch.Keep`)."""
        if cases and not (self.cases and self.cases[-1] is cases[-1]):
            self.cases += cases

    def to_dict(self) -> dict[str, Any]:
        """As in the file.

        Raises:
            PredictionsError: if two cases have the same id.
        """
        no_duplicates((case.id for case in self.cases), "case")
        return {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "model": self.model,
            "engine": self.engine,
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
        top = fields(content, ("schema_version", "task", "model", "engine", "cases"))
        for key in ("model", "engine"):
            with inside(key):
                text(mapping(top[key]).get("name"), "name")
        cases = each(top["cases"], "cases", read_case)
        no_duplicates((case.id for case in cases), "case")
        return cls(text(top["task"], "task"), top["model"], top["engine"], cases)

    def write(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            PredictionsError: if the file cannot be written, or ``model`` or ``engine`` are not plain JSON data.
        """
        no_duplicates((case.id for case in self.cases), "case")
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
            frame = _json(Predictions(self.task, self.model, self.engine).to_dict())
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
    stored = read_text(path, PredictionsError, "results file")
    try:
        content = json.loads(stored)
    except json.JSONDecodeError as error:
        raise PredictionsError(f"{path}: line {error.lineno}: is not valid JSON: {error.msg}.") from None
    with inside(str(path)):
        return Predictions.from_dict(content)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def _encoded(content: str) -> bytes:
    """UTF-8; what a file name has that is not text (a lone surrogate) becomes JSON's escape for it."""
    return content.encode("utf-8", "backslashreplace")
