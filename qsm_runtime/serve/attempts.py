"""How often work on a study began and never ended: what ends the process itself must not be tried at every start.

A count is on disk before the work begins, so that it is there however the process ends. A study that has one is worked
on alone: what ends the process then is that study, and no neighbour is counted with it for ever.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import write_files
from qsm_runtime.serve.spool_files import sync_folder

MAX_TRIES = 3  # of work that never ended, after which a study is given up
SLOT = 64  # bytes for the name of what is being read


class Attempts:
    """Counts by study in one file. Methods may be called by several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._before = _read(path)
        self._open: set[str] = set()

    def before(self, study: str) -> int:
        """How often earlier processes began work on it that never ended."""
        return self._before.get(study, 0)

    def begin(self, study: str) -> None:
        """Work on it begins, which counts once until it has ended. Where the disk takes no count there is none."""
        with self._lock:
            if study not in self._open:
                self._open.add(study)
                self._write()

    def died_at(self, name: str) -> None:
        """The last process ended at it without having said so."""
        with self._lock:
            self._before[name] = self.before(name) + 1
            self._write()

    def ended(self, study: str) -> None:
        """Whatever came of the work, the process outlived it: the count is forgotten."""
        with self._lock:
            if study in self._open or study in self._before:
                self._open.discard(study)
                self._before.pop(study, None)
                self._write()

    def keep(self, studies: Container[str]) -> None:
        """Forget counts of all others: they are no longer there."""
        with self._lock:
            gone = [study for study in self._before if study not in studies]
            for study in gone:
                del self._before[study]
            if gone:
                self._write()

    def close(self) -> None:
        """The process ends in order: what it leaves unfinished counts for nothing."""
        with self._lock:
            if self._open:
                self._open.clear()
                self._write()

    def __len__(self) -> int:
        """How many studies have a count of earlier processes."""
        return len(self._before)

    def _write(self) -> None:
        counts = Counter(self._before)
        counts.update(self._open)
        with suppress(OutputError, OSError):
            write_files({self._path: [json.dumps(counts).encode()]}, overwrite=True)
            sync_folder(self._path.parent)


class Reading:
    """The name of the one file that is being read, in a file: still there at the next start, it ended the process.

    It is quickly written and not forced to the disk, which keeps it all the same when a process is killed.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        self.left = self._file.read(SLOT).decode("ascii", "replace").strip()

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """While it is read. name: of ASCII, not longer than SLOT."""
        self._say(name)
        try:
            yield
        finally:
            self._say("")

    def _say(self, name: str) -> None:
        with suppress(OSError):  # a full disk
            self._file.seek(0)
            self._file.write(name.encode("ascii").ljust(SLOT))


def _read(path: Path) -> dict[str, int]:
    """The counts as they were left; none where there is no such file or it is damaged."""
    try:
        found = json.loads(path.read_text())
        return {str(study): int(count) for study, count in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
