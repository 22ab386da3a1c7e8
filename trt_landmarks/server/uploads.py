"""Files that clients send: streamed to disk, under names that stay in a folder of their own, and removed again."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trt_landmarks.errors import TrtlmError
from trt_landmarks.scan import ScanFile, case_id, find_scans
from trt_landmarks.scan.archive import MOST_FILES

#: Uploads that are kept, the newest ones, and for how many seconds.
KEPT, KEPT_SECONDS = 32, 3600.0
#: Bytes of a form's fields that are no files, and of a name.
_FIELD, _NAME = 1 << 20, 200
_DEPTH = 16

_BAD_FORM = "Send multipart/form-data with one file, or the files of one DICOM series."


@dataclass
class Upload:
    """What a client sent.

    Attributes:
        folder: holds the files.
        files: their paths.
        fields: name -> text of the form's other fields.
        id: cannot be guessed.
        time: when it was last used.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    time: float = field(default_factory=time.monotonic)

    def scan(self, series: str = "all") -> ScanFile:
        """The one scan in it; reads headers where it is DICOM.

        Raises:
            ScanError: if there is none, or more than one; with the same codes as ``trtlm infer``.
            TrtlmError: if no file was sent.
        """
        if not self.files:
            raise TrtlmError("the request holds no file.", _BAD_FORM, code="upload_invalid")
        if len(self.files) == 1:
            return ScanFile(case_id(self.files[0]), self.files[0])
        try:
            found = find_scans([self.folder], series=series)
        except TrtlmError as error:
            message = error.message.replace(str(self.folder), "the upload")
            raise type(error)(message, error.remedy, code=error.code) from None
        if len(found) > 1:
            raise TrtlmError(f"the upload holds {len(found)} scans.", "Send one.", code="scan_series")
        return found[0]


class Uploads:
    """The uploads that are kept; :meth:`close` removes them all.

    Args:
        most: bytes of one upload.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._folder = tempfile.TemporaryDirectory(prefix="trtlm-serve-", ignore_cleanup_errors=True)
        self._kept: dict[str, Upload] = {}

    async def receive(self, content_type: str, body: AsyncIterator[bytes]) -> Upload:
        """Store the files of a multipart request.

        Raises:
            TrtlmError: if it is no such request, has too many files or no end, or the disk is full.
        """
        upload = Upload(Path(tempfile.mkdtemp(dir=self._folder.name), "scan"))
        try:
            upload.folder.mkdir()
            form = _Form(upload, content_type)
            async for chunk in body:
                form.write(chunk)
            form.end()
        except BaseException as error:
            self.discard(upload)
            if isinstance(error, OSError):
                message = f"the upload cannot be stored: {error.strerror}."
                raise TrtlmError(message, "Try again later.", code="upload_failed") from None
            raise
        return upload

    def keep(self, upload: Upload, id: str | None = None) -> str:
        """Keep an upload for later requests, at the cost of the oldest ones; gives its id."""
        now = time.monotonic()
        old = [key for key, one in self._kept.items() if now - one.time > KEPT_SECONDS]
        full = sorted(self._kept, key=lambda key: self._kept[key].time)[: max(0, len(self._kept) - KEPT + 1)]
        for key in {*old, *full}:
            self.remove(key)
        key = id or upload.id
        self._kept[key] = upload
        return key

    def get(self, id: str) -> Upload | None:
        """An upload that is still kept."""
        upload = self._kept.get(id)
        if upload is not None:
            upload.time = time.monotonic()
        return upload

    def __contains__(self, id: str) -> bool:
        return id in self._kept

    def remove(self, id: str) -> bool:
        """Remove an upload that is kept; says whether it was there."""
        upload = self._kept.pop(id, None)
        if upload is not None:
            self.discard(upload)
        return upload is not None

    @staticmethod
    def discard(upload: Upload) -> None:
        """Remove an upload's files."""
        shutil.rmtree(upload.folder.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove all."""
        self._folder.cleanup()


class _Form:
    """Writes the files of a multipart body as it comes in."""

    def __init__(self, upload: Upload, content_type: str) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
            raise TrtlmError("the request is no form with files.", _BAD_FORM, code="upload_invalid")
        self._upload = upload
        self._options = parse_options_header
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._file: IO[bytes] | None = None
        self._text = b""
        self._ended = False
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin, "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._open, "on_part_data": self._data,
            "on_part_end": self._close, "on_end": self._finish,
        }  # fmt: skip
        self._parser: Any = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]

    def write(self, chunk: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        try:
            self._parser.write(chunk)
        except FormParserError:
            self._drop()
            raise TrtlmError("the form is damaged.", _BAD_FORM, code="upload_invalid") from None
        except BaseException:
            self._drop()
            raise

    def end(self) -> None:
        self._drop()
        if not self._ended:
            raise TrtlmError("the upload ended too early.", "Send it again.", code="upload_invalid")

    def _begin(self) -> None:
        self._disposition, self._text, self._header = b"", b"", [b"", b""]

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _open(self) -> None:
        _, options = self._options(self._disposition.decode("latin-1"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        named = options.get(b"filename")
        if named is None:
            return
        path = self._upload.folder / _safe(named.decode("utf-8", "replace"))
        if len(self._upload.files) >= MOST_FILES:
            raise TrtlmError(f"more than {MOST_FILES} files.", "Send one series.", code="upload_too_large")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("xb")
        except FileExistsError:
            raise TrtlmError("the upload names a file twice.", _BAD_FORM, code="upload_invalid") from None
        self._upload.files.append(path)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD:
            raise TrtlmError(f"the field {self._name[:40]} is too long.", _BAD_FORM, code="upload_too_large")

    def _close(self) -> None:
        if self._file is None and len(self._upload.fields) < 100:
            self._upload.fields[self._name] = self._text.decode("utf-8", "replace")
        self._drop()

    def _finish(self) -> None:
        self._ended = True

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _safe(name: str) -> Path:
    """A path that a client named, inside a folder: no way out of it, nothing invisible, not too long."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    shown = ["".join(one if one.isprintable() and one not in ':*?"<>|' else "_" for one in part) for part in parts]
    # The end of a name says what it is.
    short = [part.encode()[-_NAME:].decode("utf-8", "ignore") for part in shown[-_DEPTH:]]
    return Path(*short) if short else Path("scan")
