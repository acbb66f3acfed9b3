"""Objects received and results to send, on disk: the folder an object lies in is its state, a rename changes it.

  incoming/NAME.dcm   received, and of no job yet
  working/JOB/        objects of a scan that is being reconstructed
  outgoing/JOB/       derived objects and, for each peer, the list of what it acknowledged (PEER.acks)
  done/JOB/           objects of an answered scan, job.json, and derived/ once every peer has it
  failed/JOB/         objects, and job.json with the reason

  attempts.json       studies whose work never ended, and how often; reading: the object whose header is being read

NAME is a hash of the object's UID: nothing a sender wrote becomes part of a path. However the process ends, `repair`
returns to a state in which nothing received is lost and no answer is given twice.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import said
from qsm_runtime.serve.attempts import Attempts, Reading
from qsm_runtime.serve.keep import remove
from qsm_runtime.serve.spool_files import folders, hold, size_of, sync_folder, write_record, write_whole
from qsm_runtime.serve.spool_limits import MIB, Limits, Room, SpoolFull
from qsm_runtime.serve.spool_repair import DERIVED, STATES, Flusher, repair

__all__ = ["DERIVED", "MIB", "STATES", "Limits", "Spool", "SpoolFull"]


class Spool:
    """One folder, one process. Methods may be called by several threads.

    removed: told the state, the job and the bytes of what is removed because of the limits.
    """

    def __init__(
        self, root: Path, limits: Limits | None = None, removed: Callable[[str, str, int], None] | None = None
    ) -> None:
        self.root, self.limits, self._removed = Path(root), limits or Limits(), removed
        self._lock = threading.RLock()
        self._where: dict[str, Path] = {}  # of every object that came, its folder
        self._room = Room(self.root)
        self._flusher: Flusher | None = None
        self._held: int | None = None
        self._reading: Reading | None = None
        self.attempts = Attempts(self.root / "attempts.json")

    def open(self) -> list[Path]:
        """Make the folders, repair what an ended process left, and return the objects that wait, oldest first."""
        try:
            for state in STATES:
                self.folder(state).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = hold(self.root / "lock")
        except BlockingIOError as error:
            raise OutputError(f"{self.root} is used by another server; give each its own --spool") from error
        except OSError as error:
            raise OutputError(said(self.root, error)) from error
        waiting = self._recover()
        self._reading = Reading(self.root / "reading")
        if self._reading.left in {path.name for path in waiting}:
            self.attempts.died_at(self._reading.left)
        if self.limits.fsync == "soon":
            self._flusher = Flusher(self.path)
        return waiting

    def close(self) -> None:
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None
        self.attempts.close()
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def folder(self, state: str, job: str = "") -> Path:
        return self.root / state / job

    def _recover(self) -> list[Path]:
        """Learn what is there, after what an ended process left is repaired. Returns the objects in incoming."""
        with self._lock:
            waiting = repair(self.root)
            self._where = {path.name: path.parent for job in folders(self.folder("done")) for path in job.glob("*.dcm")}
            self._where.update({path.name: path.parent for path in waiting})
            self._room.measure(len(waiting))
            self.retire()
            return waiting

    def path(self, name: str) -> Path | None:
        """Where an object lies that is waiting, in work or done; None where there is none."""
        with self._lock:
            folder = self._where.get(name)
        return None if folder is None else folder / name

    def reading(self, name: str) -> AbstractContextManager[None]:
        """While the header of an object of incoming is read, one at a time: the next start knows if it was the end."""
        return contextlib.nullcontext() if self._reading is None else self._reading.of(name)

    def holds(self, name: str, data: bytes) -> bool:
        """Whether an object that is waiting, in work or done is exactly this."""
        with self._lock:
            path = self.path(name)
            if path is None or path.stat().st_size != len(data):
                return False
            return path.read_bytes() == data

    def take(self, name: str, parts: Iterable[bytes]) -> Path:
        """Write an object to incoming, whole or not at all. Raises SpoolFull."""
        data = b"".join(parts)
        self._make_room(len(data))
        path = self.folder("incoming") / name
        part = path.with_suffix(f".{threading.get_ident()}.part")
        try:
            write_whole(path, part, data, self.limits.fsync == "always")
        except OSError as error:
            raise SpoolFull(f"an object could not be stored ({error.strerror}): make room at {self.root}") from error
        if self._flusher is not None:
            self._flusher.write_out(path)
        with self._lock:
            self._where[name] = path.parent
            self._room.waiting += 1
            self._room.bytes["incoming"] += len(data)
        return path

    def drop(self, name: str) -> None:
        """Forget an object of incoming that was not acknowledged."""
        with self._lock:
            path = self.folder("incoming") / name
            self._room.bytes["incoming"] -= path.stat().st_size
            path.unlink()
            del self._where[name]
            self._room.waiting -= 1

    def claim(self, job: str, names: Iterable[str]) -> dict[str, Path]:
        """Move objects, from incoming or from answered jobs, to a job in work. Returns where each lies now."""
        folder = self.folder("working", job)
        folder.mkdir(mode=0o700)
        return self._move(names, folder)

    def give_back(self, job: str) -> None:
        """Objects of a job in work wait again."""
        folder = self.folder("working", job)
        self._move([path.name for path in folder.glob("*.dcm")], self.folder("incoming"))
        shutil.rmtree(folder)
        shutil.rmtree(self.folder("outgoing", f".{job}"), ignore_errors=True)

    def draft(self, job: str) -> Path:
        """An empty folder for a job's derived objects, which `answer` makes count."""
        folder = self.folder("outgoing", f".{job}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def answer(self, job: str, record: Mapping[str, Any]) -> None:
        """The draft is the answer of a job in work: it may be sent, and the job is done. Raises OutputError."""
        working, draft = self.folder("working", job), self.folder("outgoing", f".{job}")
        try:
            write_record(draft, record)
            sync_folder(draft)
            os.replace(draft, self.folder("outgoing", job))  # from here on the answer is given
        except OSError as error:
            raise OutputError(said(draft, error)) from error
        sync_folder(self.folder("outgoing"))
        self._settle(working, "done", record)
        with self._lock:
            self._room.bytes["outgoing"] += size_of(self.folder("outgoing", job))

    def fail(self, job: str, record: Mapping[str, Any]) -> None:
        """A job in work has no answer; record says why."""
        shutil.rmtree(self.folder("outgoing", f".{job}"), ignore_errors=True)
        self._settle(self.folder("working", job), "failed", record)

    def set_aside(self, job: str, record: Mapping[str, Any]) -> None:
        """Objects of a job in work are of no scan: they are kept as long as answered ones are."""
        self._settle(self.folder("working", job), "done", record)
        self.retire()

    def delivered(self, job: str) -> None:
        """Every peer has a job's answer."""
        with self._lock:
            outgoing, done = self.folder("outgoing", job), self.folder("done", job)
            self._room.bytes["outgoing"] -= size_of(outgoing)
            done.mkdir(mode=0o700, exist_ok=True)
            os.replace(outgoing, done / DERIVED)
            self._room.bytes["done"] += size_of(done / DERIVED)
            self.retire()

    def undelivered(self, job: str, record: Mapping[str, Any]) -> None:
        """A job's answer is given up; its derived objects are kept beside the failures."""
        with self._lock:
            outgoing, failed = self.folder("outgoing", job), self.folder("failed", job)
            size = size_of(outgoing)
            write_record(outgoing, record)
            os.replace(outgoing, failed)
            self._room.bytes["outgoing"] -= size
            self._room.bytes["failed"] += size

    def outgoing(self) -> list[str]:
        """Jobs with an answer that some peer has yet to acknowledge, oldest first."""
        return sorted(job.name for job in folders(self.folder("outgoing")))

    def retire(self) -> None:
        """Remove jobs of done and failed that are kept no longer, but none whose answer is still to be sent."""
        with self._lock:
            for job in self._room.overdue(self.limits, set(self.outgoing())):
                self._remove(job)

    def state(self) -> dict[str, Any]:
        """Objects waiting, jobs in each other state, and MiB in all."""
        with self._lock:
            counts = {state: len(folders(self.folder(state))) for state in STATES[1:]}
            return {"waiting": self._room.waiting, **counts, "mib": round(sum(self._room.bytes.values()) / MIB, 1)}

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._room.check(size, self.limits)
            if self._room.fits(size, self.limits):
                return
            for job in self._room.dispensable(set(self.outgoing())):
                self._remove(job)
                if self._room.fits(size, self.limits):
                    return
            raise SpoolFull(f"the disk of {self.root} is full: free space")

    def _remove(self, job: Path) -> None:
        state, size, names = job.parent.name, size_of(job), [path.name for path in job.glob("*.dcm")]
        try:
            remove(job)
        except OSError:  # not ours any more: it is tried again
            return
        self._room.bytes[state] -= size
        for name in names if state == "done" else ():
            self._where.pop(name, None)
        if self._removed is not None:
            self._removed(state, job.name, size)

    def _move(self, names: Iterable[str], folder: Path) -> dict[str, Path]:
        with self._lock:
            moved = {}
            for name in names:
                source = self._where[name]
                os.replace(source / name, folder / name)
                size = (folder / name).stat().st_size
                self._room.moved(size, source.relative_to(self.root).parts[0], folder.relative_to(self.root).parts[0])
                self._room.waiting += (folder.name == "incoming") - (source.name == "incoming")
                self._where[name] = folder
                moved[name] = folder / name
            return moved

    def _settle(self, working: Path, state: str, record: Mapping[str, Any]) -> None:
        with self._lock:
            place, size = self.folder(state, working.name), size_of(working)
            with contextlib.suppress(OSError):  # a full disk must not keep a job from its place
                write_record(working, record)
            os.replace(working, place)
            names = [path.name for path in place.glob("*.dcm")]
            if state == "done":
                self._where.update(dict.fromkeys(names, place))
            else:  # sent again, a failed scan is a new one
                for name in names:
                    del self._where[name]
            self._room.bytes["working"] -= size
            self._room.bytes[state] += size_of(place)
