"""Names that may hold anything, of cases and landmarks: as file names, and as text in pictures."""

from __future__ import annotations

import hashlib
import re
import unicodedata

#: What some file system does not allow, or a path would take for a folder.
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
#: Names that are devices on Windows, whatever their ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
#: Bytes of a name at most; file systems allow 255, of which endings and temporary names take a part.
LONGEST = 160


class FileNames:
    """Gives each case a name that no other case has, safe as a part of a file's name.

    An id that is safe is its own name.  Any other one gets its forbidden characters replaced, and a part of its
    SHA-256 appended.  Names differ also where upper and lower case are the same.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def name(self, case_id: str) -> str:
        """The name of a case; the same at every call."""
        if case_id not in self._names:
            name = safe = _safe(case_id)
            digest = hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()
            digits = 0 if safe == case_id else 8
            while digits or name.casefold() in self._taken:
                name = f"{safe}-{digest[: max(digits, 8)]}"
                if name.casefold() not in self._taken:
                    break
                digits = max(digits, 8) + 8
            self._names[case_id] = name
            self._taken.add(name.casefold())
        return self._names[case_id]


def _safe(text: str) -> str:
    """The text as a name: no separators, nothing invisible, no leading or trailing dots or spaces."""
    text = unicodedata.normalize("NFC", text)
    shown = "".join(one if one.isprintable() else "_" for one in text)
    name = _FORBIDDEN.sub("_", shown)
    name = name.encode("utf-8")[:LONGEST].decode("utf-8", "ignore").lstrip(". ").rstrip(". ") or "case"
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def literal(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
