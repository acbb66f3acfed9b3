"""Answers on their way to their destinations: every object until its acknowledgement, across restarts.

Each destination has a thread and, in each job's folder, a list of the objects it acknowledged. The list is written
after the acknowledgement and before the next object: a process that ends just between the two sends that one object
again, under the same UID, and no other.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from qsm_runtime.errors import OutputError, QsmError
from qsm_runtime.serve.dicom_send import Destination, SendError, object_of, send
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import Spool
from qsm_runtime.serve.spool_files import read_record

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
REFUSED_TRIES = 5  # of an object whose refusal is the peer's answer, not its absence
OUT_OF_RESOURCES = range(0xA700, 0xA800)
DAY_S = 86400.0


class Delivery:
    """Sends what `spool.outgoing` holds to every destination, oldest first.

    give_up_s: age of an answer after which a destination that does not take it is given up. send: as dicom_send.send.
    """

    def __init__(
        self,
        spool: Spool,
        to: Sequence[Destination],
        calling: str,
        log: StudyLog,
        give_up_s: float = 7 * DAY_S,
        pause_s: float = FIRST_PAUSE_S,
        send: Callable[..., None] = send,
    ) -> None:
        self.spool, self.to, self.calling, self.log = spool, tuple(to), calling, log
        self._give_up_s, self._pause_s, self._send = give_up_s, pause_s, send
        self._stopping = threading.Event()
        self._news = {one: threading.Event() for one in self.to}
        self._lock = threading.Lock()
        self._waiting: dict[Destination, str] = {}  # why each is not getting anything just now
        self._kept: dict[tuple[str, Destination], set[str]] = {}  # acknowledged to this process
        self._sent = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for job in self.spool.outgoing():
            self._finish(job)
        for one in self.to:
            thread = threading.Thread(target=self._serve, args=(one,), name=f"to-{one.ae}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, drain_s: float = 10.0) -> None:
        """Send what can be sent within `drain_s`; the rest waits in the spool for the next start."""
        end = time.monotonic() + drain_s
        while self.spool.outgoing() and not self._waiting and time.monotonic() < end:
            time.sleep(0.05)
        self._stopping.set()
        for news in self._news.values():
            news.set()
        for thread in self._threads:
            thread.join(max(0.1, end - time.monotonic()))

    def told(self, job: str) -> None:
        """There is a new answer."""
        if not self.to:
            self._finish(job)
        for news in self._news.values():
            news.set()

    def state(self) -> dict[str, Any]:
        return {"outgoing": len(self.spool.outgoing()), "sent": self._sent, "waiting": dict(_plain(self._waiting))}

    def _serve(self, to: Destination) -> None:
        pause_s = self._pause_s
        while not self._stopping.is_set():
            self._news[to].clear()
            try:
                for job in self.spool.outgoing():
                    self._job(job, to)
                    pause_s = self._pause_s
                self._waiting.pop(to, None)
                self._news[to].wait()
            except (QsmError, OSError) as error:
                if to not in self._waiting:
                    self.log.event("send.waits", level="warning", to=to.ae, reason=str(error), pause_s=pause_s)
                self._waiting[to] = str(error)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _job(self, job: str, to: Destination) -> None:
        """Send a job's objects that `to` has not acknowledged. Raises SendError where it should be tried again."""
        folder = self.spool.folder("outgoing", job)
        if not folder.is_dir():
            return
        acks = folder / acks_name(to)
        has = self._has(job, to)
        left = [path for path in sorted(folder.glob("*.dcm")) if path.name not in has]
        start = time.perf_counter()
        refused: dict[Path, int] = {}
        for _ in range(REFUSED_TRIES if left else 0):
            refused = {}

            def took(path: Path, status: int, refused: dict[Path, int] = refused) -> None:
                if status:
                    refused[path] = status
                else:
                    self._kept[job, to].add(path.name)  # should the disk not take it
                    self._sent += 1
                    acknowledge(acks, path.name)

            if self._old(folder):
                break
            self._send([one for path in left if (one := object_of(path)) is not None], to, self.calling, took)
            left = list(refused)
            if not left:
                break
            if any(status in OUT_OF_RESOURCES for status in refused.values()):
                raise SendError(f"{to} has no room")
            self._stopping.wait(self._pause_s)
        if self._stopping.is_set() and left:
            return
        if left:
            said = ", ".join(sorted({f"0x{status:04X}" for status in refused.values()})) or "unreachable for too long"
            self._give_up(job, to, f"{to.ae} does not take {len(left)} of the objects ({said})")
            return
        if start and acks.exists():
            self.log.event("answer.sent", job=job, to=to.ae, seconds=time.perf_counter() - start)
        self._finish(job)

    def _old(self, folder: Path) -> bool:
        return time.time() - folder.stat().st_mtime > self._give_up_s and not self._stopping.is_set()

    def _give_up(self, job: str, to: Destination, reason: str) -> None:
        with self._lock:
            if self.spool.folder("outgoing", job).is_dir():
                record = read_record(self.spool.folder("outgoing", job))
                self.spool.undelivered(job, {**record, "reason": reason})
        self.log.event("answer.refused", level="error", job=job, to=to.ae, reason=reason)

    def _finish(self, job: str) -> None:
        """A job is delivered where every destination has all of it."""
        with self._lock:
            folder = self.spool.folder("outgoing", job)
            if not folder.is_dir():
                return
            names = {path.name for path in folder.glob("*.dcm")}
            if all(names <= self._has(job, one) for one in self.to):
                self.spool.delivered(job)
                for one in self.to:
                    self._kept.pop((job, one), None)

    def _has(self, job: str, to: Destination) -> set[str]:
        """Names of a job's objects that a destination acknowledged."""
        listed = acknowledged(self.spool.folder("outgoing", job) / acks_name(to))
        return listed | self._kept.setdefault((job, to), set())


def acks_name(to: Destination) -> str:
    """Name of the list of what a destination acknowledged: nothing of it is a path."""
    return f"{sha256(str(to).encode()).hexdigest()[:12]}.acks"


def acknowledged(acks: Path) -> set[str]:
    """Names in such a list; a last line that was cut short is none."""
    try:
        text = acks.read_text()
    except FileNotFoundError:
        return set()
    return {line for line in text.split("\n")[:-1] if line}


def acknowledge(acks: Path, name: str) -> None:
    """Add a name to the list. Raises OutputError."""
    try:
        with open(acks, "a") as stream:
            stream.write(f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{acks}: cannot be written ({error.strerror})") from error


def _plain(waiting: dict[Destination, str]) -> dict[str, str]:
    return {one.ae: why for one, why in waiting.items()}
