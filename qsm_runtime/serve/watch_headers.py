"""Headers of files that others wrote, each read once for as long as the file does not change, by threads of their own.

Nothing that such a file makes a reader do ends the watch: an error of any kind becomes the reason why it has no planes.
Nor does what ends the whole process do so for ever: after that, files are read one by one until it is known which.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from qsm_runtime.errors import QsmError
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.read import Planes, read_file
from qsm_runtime.serve.attempts import MAX_TRIES, Attempts, Reading
from qsm_runtime.serve.spool_files import label_of
from qsm_runtime.serve.watch_files import Print

T = TypeVar("T")
NEVER_DICOM = (".nii", ".nii.gz", ".json", ".zip", ".tar", ".tar.gz", ".tgz", ".bval", ".bvec", ".txt", ".xml", ".png")
BATCH = 32  # headers read between two looks at the clock
MANY = "many"  # that are being read at once


class Headers:
    """Planes by file. reading, attempts: where earlier processes ended, which one may do `tries` times."""

    def __init__(self, threads: int, reading: Reading, attempts: Attempts, tries: int = MAX_TRIES) -> None:
        self._reading, self._attempts, self._tries = reading, attempts, tries
        self._batch = 1 if reading.left else BATCH
        if reading.left not in ("", MANY):
            attempts.died_at(reading.left)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="headers")
        self._read: dict[Path, tuple[Print, list[Frame] | str]] = {}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._reading.close()

    def read(self, files: Mapping[Path, Print], until: float = float("inf")) -> bool:
        """Read what changed or is new, up to a moment on the monotonic clock. Returns whether all of it was."""
        new = [path for path, mark in files.items() if self.of(path, mark) is None]
        for first in range(0, len(new), self._batch):
            if time.monotonic() > until:
                return False
            batch = new[first : first + self._batch]
            label = label_of(ascii((str(batch[0]), files[batch[0]]))) if len(batch) == 1 else MANY
            tries = self._attempts.before(label)
            if tries >= self._tries:
                self._read[batch[0]] = (files[batch[0]], f"the server ended {tries} times when it read this file")
                continue
            with self._reading.of(label):
                futures = {path: self._pool.submit(_planes_of, path) for path in batch}
                for path, future in futures.items():
                    self._read[path] = (files[path], outcome(future))
            if tries:
                self._attempts.ended(label)
        return True

    def of(self, path: Path, mark: Print) -> list[Frame] | str | None:
        """The planes of a file, or why it has none (empty for what is no DICOM); None where it is still to be read."""
        read = self._read.get(path)
        return read[1] if read is not None and read[0] == mark else None

    def planes(self, files: Mapping[str, Print], root: Path, now: Path | None = None) -> Planes:
        """All planes of files below `root`; with `now`, as if they lay there."""
        planes = Planes()
        for name, mark in sorted(files.items()):
            read = self.of(root / name, mark)
            if isinstance(read, list) and now is not None:
                moved = replace(read[0].instance, path=now / name)
                read = [frame._replace(instance=moved) for frame in read]
            planes.add(name, "" if read is None else read)
        return planes

    def keep(self, paths: set[Path]) -> None:
        """Forget every other file."""
        self._read = {path: read for path, read in self._read.items() if path in paths}

    def safely(self, function: Callable[[], T]) -> T | str:
        """What `function` gives, or what went wrong in it."""
        return outcome(self._pool.submit(function))


def outcome(future: Future[T]) -> T | str:
    """A result, or the text of the error that came instead."""
    error = future.exception()
    if error is None:
        return future.result()
    return str(error) if isinstance(error, QsmError) else f"cannot be read ({type(error).__name__}: {error})"


def _planes_of(path: Path) -> list[Frame] | str:
    name = path.name.lower()
    skipped = name.endswith(NEVER_DICOM) or name.startswith(".") or name == "dicomdir"
    return "" if skipped else read_file(path)
