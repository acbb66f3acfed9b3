"""The servers' log: one JSON object a line, without names of patients and without UIDs.

What could name a patient becomes a keyed hash (HMAC-SHA-256 with a salt of this installation, 12 hex digits): the same
study has the same hash in every line, and nobody without the salt can go back. Rotation is left to the system: a file
that was moved away is opened anew, one that was cut short is written on. A log that cannot be written never stops the
server: lines are counted, and the count is told as soon as there is room.
"""

import hashlib
import hmac
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import REMEDIES
from qsm_runtime.serve.salt import OWNER_ONLY, salt

LEVELS = ("debug", "info", "warning", "error")
HASH_DIGITS = 12
MAX_TEXT = 500  # characters of a field
UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}")
# a path, or the name of a file: with a folder before it, or an ending that images have
PATH = re.compile(
    r"""(?:[A-Za-z]:)?[\\/][^\s'",;:]*|[^\s'",;:]*[\\/][^\s'",;:]+"""
    r"""|[^\s'",;:/\\]+\.(?:dcm|ima|img|nii|gz|json|mr|png|zip|tar|tgz|hdr|h5|par|rec|xml)\b(?:\.gz\b)?""",
    re.IGNORECASE,
)


def hashed(text: str) -> str:
    """12 hex digits for a name or UID, always the same on this installation."""
    data = text.encode("utf-8", "surrogateescape")
    return hmac.new(salt(), data, hashlib.sha256).hexdigest()[:HASH_DIGITS]


def scrubbed(text: str) -> str:
    """A message with every UID, path and name of an image file in it replaced by its hash, cut to MAX_TEXT."""
    text = UID.sub(lambda found: f"uid:{hashed(found[0])}", text)
    return PATH.sub(lambda found: f"file:{hashed(found[0])}", text)[:MAX_TEXT]


def without(text: str, names: Iterable[str]) -> str:
    """A message with every one of `names` in it replaced by its hash, the longest first: for names with blanks."""
    for name in sorted((n for n in set(names) if n and n in text), key=len, reverse=True):
        text = text.replace(name, f"name:{hashed(name)}")
    return text


class StudyLog:
    """Writes events to a stream or to a file that is only ever appended to. Safe to be used by several threads.

    target: an open text stream, the path of a file, or None for standard error. level: the lowest that is written.
    Raises OutputError where the file cannot be opened.
    """

    def __init__(self, target: TextIO | Path | str | None = None, level: str = "info") -> None:
        self._lock = threading.RLock()
        self._lowest = LEVELS.index(level)
        self._path = Path(target) if isinstance(target, Path | str) else None
        self._stream: TextIO | None = None
        if self._path is not None:
            try:
                self._descriptor = self._open()
            except OSError as error:
                raise OutputError(f"{self._path}: no log there; {REMEDIES.get(error.errno or 0, error)}") from error
        else:
            self._stream = sys.stderr if target is None else target  # type: ignore[assignment]
        self.lost = 0  # lines that could not be written, and were not told yet

    def event(self, name: str, *, level: str = "info", study: str = "", **fields: Any) -> None:
        """Write one line. study: a hash (see `hashed`). Texts in `fields` are scrubbed; None is left out."""
        if LEVELS.index(level) < self._lowest:
            return
        line = {"utc": _now(), "level": level, "event": name}
        if study:
            line["study"] = study
        line |= {key: _plain(value) for key, value in fields.items() if value is not None}
        with self._lock:
            if self.lost and self._write({"utc": _now(), "level": "error", "event": "log.lost", "lines": self.lost}):
                self.lost = 0
            if not self._write(line):
                self.lost += 1

    def close(self) -> None:
        """Close the file; a stream is the caller's."""
        with self._lock:
            if self._path is not None and self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open(self) -> int:
        return os.open(self._path or Path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, OWNER_ONLY)

    def _write(self, line: Mapping[str, Any]) -> bool:
        text = json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n"
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
                return True
            self._follow()
            data = text.encode()
            written = os.write(self._descriptor, data)  # one call: lines of several processes do not mix
            if written < len(data):  # no room for all of it: what is there must not swallow the next line
                os.write(self._descriptor, b"\n")
            return written == len(data)
        except (OSError, ValueError):  # full, gone, or a stream closed meanwhile
            return False

    def _follow(self) -> None:
        """Open the file anew where it was moved away or removed."""
        path = self._path or Path()
        try:
            there, held = os.stat(path), os.fstat(self._descriptor)
            same = (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
        except OSError:
            same = False
        if not same:
            opened = self._open()
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = opened


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """A value for JSON: texts scrubbed, numbers rounded to what a log needs, NaN as text."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    return scrubbed(str(value))
