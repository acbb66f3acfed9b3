"""What keeps a spool whole: repair after a process that ended anyhow, and a thread that writes out what came."""

import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from qsm_runtime.serve.spool_files import folders, merge

STATES = ("incoming", "working", "outgoing", "done", "failed")
DERIVED = "derived"


def repair(root: Path) -> list[Path]:
    """Bring a spool's folders to a state a new process can go on from. Returns the objects that wait, oldest first.

    A job without a whole answer goes back to incoming, one whose answer lies in outgoing is done.
    """
    for part in (root / "incoming").glob("*.part"):
        part.unlink()
    for draft in (root / "outgoing").glob(".*"):
        shutil.rmtree(draft)
    for job in folders(root / "working"):
        if (root / "outgoing" / job.name).is_dir() or (root / "done" / job.name).is_dir():
            merge(job, root / "done" / job.name)
        else:
            for path in job.glob("*.dcm"):
                os.replace(path, root / "incoming" / path.name)
            shutil.rmtree(job)
    return sorted((root / "incoming").glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)


class Flusher:
    """Writes out what was acknowledged, as soon as the disk can. find: where an object of this name is now."""

    def __init__(self, find: Callable[[str], Path | None]) -> None:
        self._find = find
        self._written: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._flush, name="spool-flush", daemon=True)
        self._thread.start()

    def write_out(self, path: Path) -> None:
        self._written.put(path)

    def stop(self) -> None:
        """Once all of it is written out."""
        self._written.put(None)
        self._thread.join()

    def _flush(self) -> None:
        while (path := self._written.get()) is not None:
            for place in (path, self._find(path.name)):  # it may have moved meanwhile
                try:
                    with open(place or path, "rb") as stream:
                        os.fsync(stream.fileno())
                    break
                except OSError:
                    continue
