"""One complete scan on its way from objects to an answer in outgoing, in a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qsm_runtime.errors import OutputError, QsmError, ReconstructionError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.dicom.find import FoundDicom
from qsm_runtime.serve.arrivals import HeadStart, Study, names_of, placed
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import Spool

if TYPE_CHECKING:
    from qsm_runtime.serve.core import Answer, Early

BUSY_S = 0.5
DISK_TRIES, DISK_S = 6, 10.0  # to write an answer while the disk is full
MAX_REASON = 2000
Write = Callable[[Acquisition, "Answer", Path], int]  # derived objects into a folder; how many


class Reconstructs(Protocol):
    """What of serve.core.Core is used here."""

    def submit(self, acquisition: Acquisition, study: str, *, early: "Early | None" = None) -> "Future[Answer]": ...

    def early(self, study: str) -> "Early": ...


@dataclass(eq=False)
class Job:
    """A complete scan on its way. settled: the answer may count, or the job is withdrawn."""

    name: str
    study: Study
    names: frozenset[str] = field(repr=False)
    found: FoundDicom = field(repr=False)
    ahead: HeadStart | None = None
    settled: threading.Event = field(default_factory=threading.Event, repr=False)
    withdrawn: bool = False
    future: "Future[Answer] | None" = field(default=None, repr=False)

    def withdraw(self) -> None:
        self.withdrawn = True
        self.settled.set()
        if self.future is not None:
            self.future.cancel()


class Work:
    """What the threads of jobs do. `write` makes the derived objects; `deliver` hears of each answer."""

    def __init__(
        self,
        spool: Spool,
        core: Reconstructs,
        log: StudyLog,
        write: Write,
        deliver: Callable[[str], None],
        threads: int | None = None,
    ) -> None:
        self.spool, self.core, self.log = spool, core, log
        self.write, self._deliver, self._threads = write, deliver, threads
        self.stopping = False  # a core that is stopped answers nothing

    def follow(self, job: Job) -> str:
        """Reconstruct, write, wait for the verdict: "answered", "failed" or "withdrawn". Raises OutputError."""
        if job.withdrawn:
            return "withdrawn"
        if job.ahead is not None:
            wait(job.ahead.handing)
        start = time.perf_counter()
        places = self.spool.claim(job.name, job.names)
        reason, said = "", None
        try:
            acquisition = placed(job.found, places).read(threads=self._threads)
            timing = {"read_s": time.perf_counter() - start}
            answer = self._reconstruct(job, acquisition)
            timing["job_s"] = time.perf_counter() - start
            said = self._derive(job, acquisition, answer, timing)
        except CancelledError:
            job.withdrawn = True
        except QsmError as error:
            reason = str(error)
        job.settled.wait()
        if job.withdrawn or (said is None and self.stopping):
            self.spool.give_back(job.name)
            return "withdrawn"
        if said is None:
            raise ReconstructionError(reason)  # the job is failed in the turn in which its study learns of it
        self.spool.answer(job.name, {"study": job.study.key, "utc": utc(), **said})
        self._deliver(job.name)
        said["after_last_s"] = time.monotonic() - job.study.last
        self.log.event("scan.answered", study=job.study.key, job=job.name, **said)
        return "answered"

    def _derive(self, job: Job, acquisition: Acquisition, answer: "Answer", timing: dict[str, float]) -> dict[str, Any]:
        """Write the derived objects, when the disk has room again if it has none; what is to be said of the answer."""
        start = time.perf_counter()
        for attempt in range(1, DISK_TRIES + 1):
            try:
                written = self.write(acquisition, answer, self.spool.draft(job.name))
                break
            except OutputError as error:
                if attempt == DISK_TRIES:
                    raise
                self.log.event("answer.not_written", level="error", study=job.study.key, reason=str(error))
                time.sleep(DISK_S)
        timing["write_s"] = time.perf_counter() - start
        how = {"recipe": answer.recipe, "late": answer.late, "objects": len(job.names), "derived": written}
        return {**how, **timing, **answer.record, "warnings": answer.result.warnings}

    def _reconstruct(self, job: Job, acquisition: Acquisition) -> "Answer":
        """Wait for the core's answer, and for a place in its queue before."""
        from qsm_runtime.serve.core import Busy

        early = None if job.ahead is None else job.ahead.early
        while True:
            try:
                job.future = self.core.submit(acquisition, job.study.key, early=early)
                break
            except Busy:
                if job.settled.wait(BUSY_S) and job.withdrawn:
                    raise CancelledError from None
        if job.withdrawn:
            job.future.cancel()
        try:
            return job.future.result()
        except MemoryError as error:
            raise ReconstructionError("not enough memory for this scan; use a cheaper recipe") from error

    def fail(self, name: str, study: Study, names: frozenset[str], reason: str) -> None:
        """Keep a scan's objects, with why it has no answer."""
        if not self.spool.folder("working", name).is_dir():
            self.spool.claim(name, names)
        self.spool.fail(name, {"study": study.key, "reason": reason[:MAX_REASON], "objects": len(names), "utc": utc()})
        self.log.event("scan.failed", level="error", study=study.key, job=name, reason=reason, objects=len(names))

    def feed(self, early: "Early", echoes: Iterable[tuple[int, FoundDicom]], times_s: tuple[float, ...]) -> None:
        """Give the core echoes as the whole scan will have them; what cannot be read now will be said then."""
        for index, found in echoes:
            try:
                places = {name: path for name in names_of(found) if (path := self.spool.path(name)) is not None}
                scan = placed(found, places).read(threads=self._threads).scan
            except (QsmError, KeyError):
                continue
            early.echo(
                index,
                scan.magnitude[0],
                scan.phase_rad[0],
                grid=scan.grid,
                echo_times_s=times_s,
                b0_tesla=scan.b0_tesla,
            )


def utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
