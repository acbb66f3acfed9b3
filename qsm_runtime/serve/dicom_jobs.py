"""From objects on disk to answers in outgoing: studies are watched, complete scans reconstructed, the rest told.

A scan that looks complete is reconstructed at once, but its answer counts only after nothing more of its study has
come for `settle_s`: the wait costs no time, and slices that come late withdraw the answer before anyone has it. All
state belongs to one thread, which others give work by `_inbox`; each job is followed by a thread of its own.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qsm_runtime.errors import OutputError, QsmError, ReconstructionError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.dicom.find import FoundDicom
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.serve.arrivals import Study, echo_times_s, names_of, placed, whole_echoes
from qsm_runtime.serve.log import StudyLog, hashed
from qsm_runtime.serve.spool import Spool

if TYPE_CHECKING:
    from qsm_runtime.serve.core import Answer, Early

TICK_S = 0.05
QUIET_S = 0.3  # without a new object, while its sender is still there: worth a look
AGAIN_S = 1.0  # between looks at a study that keeps coming
LOOKS = 20  # at least so many times as long as a look takes
OTHERS = 3  # times settle_s, where only other series of the study keep coming
BUSY_S = 0.5
DISK_TRIES, DISK_S = 6, 10.0  # to write an answer while the disk is full
AT_ONCE = 2  # jobs: one is reconstructed while the next is read
MAX_REASON = 2000


class Reconstructs(Protocol):
    """What of serve.core.Core is used here."""

    def submit(self, acquisition: Acquisition, study: str, *, early: "Early | None" = None) -> "Future[Answer]": ...

    def early(self, study: str) -> "Early": ...


@dataclass(frozen=True)
class Timing:
    """settle_s: quiet time before an answer counts. timeout_s: quiet time after which an incomplete study fails."""

    settle_s: float = 2.0
    timeout_s: float = 300.0


@dataclass(eq=False)
class Job:
    """A complete scan on its way. settled: the answer may count, or the job is withdrawn."""

    name: str
    study: Study
    names: frozenset[str] = field(repr=False)
    found: FoundDicom = field(repr=False)
    early: "Early | None" = None
    settled: threading.Event = field(default_factory=threading.Event, repr=False)
    withdrawn: bool = False
    future: "Future[Answer] | None" = field(default=None, repr=False)

    def withdraw(self) -> None:
        self.withdrawn = True
        self.settled.set()
        if self.future is not None:
            self.future.cancel()


class Jobs:
    """Owns every study. `write(acquisition, answer, folder)` makes the derived objects; `deliver` hears of answers."""

    def __init__(
        self,
        spool: Spool,
        core: Reconstructs,
        log: StudyLog,
        timing: Timing,
        write: Callable[[Acquisition, "Answer", Path], int],
        deliver: Callable[[str], None],
        threads: int | None = None,
    ) -> None:
        self.spool, self.core, self.log, self.timing = spool, core, log, timing
        self._write, self._deliver, self._threads = write, deliver, threads
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._studies: dict[str, Study] = {}
        self._jobs: list[Job] = []
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="dicom-job")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="dicom-early")
        self._thread = threading.Thread(target=self._run, name="dicom-jobs", daemon=True)
        self._stopping = self._stopped = False
        self._counts = {"answered": 0, "failed": 0, "withdrawn": 0}
        self._number = 0

    def start(self) -> None:
        self._thread.start()

    def arrived(self, frames: list[Frame], sender: int = 0) -> None:
        """One object's planes; its file lies in the spool. sender: of the association, 0 after a restart."""
        self._inbox.put(lambda: self._add(frames, sender))

    def left(self, sender: int, *, orderly: bool) -> None:
        """An association has ended."""
        self._inbox.put(lambda: self._left(sender, orderly))

    def stop(self, drain_s: float = 60.0) -> None:
        """Finish jobs that were begun, within `drain_s`; what is left waits in the spool for the next start."""
        self._stopping = True
        end = time.monotonic() + drain_s
        while self._jobs and time.monotonic() < end:
            time.sleep(TICK_S)
        for job in list(self._jobs):
            job.withdraw()
        self._ahead.shutdown(cancel_futures=True)
        self._workers.shutdown()
        self._stopped = True
        if self._thread.is_alive():
            self._thread.join()

    def state(self) -> dict[str, Any]:
        return {"studies": len(self._studies), "jobs": len(self._jobs), **self._counts}

    # the owner's thread from here on

    def _run(self) -> None:
        while not self._stopped:
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=TICK_S)()
            now = time.monotonic()
            for uid, study in list(self._studies.items()):
                self._look(uid, study, now)

    def _add(self, frames: list[Frame], sender: int) -> None:
        uid = frames[0].instance.study_uid
        if uid not in self._studies:
            self._studies[uid] = Study(hashed(uid))
            self.log.event("study.begun", study=self._studies[uid].key)
        study = self._studies[uid]
        if sender:
            study.senders.add(sender)
        if study.add(frames):
            self._head_start(study)

    def _left(self, sender: int, orderly: bool) -> None:
        for study in self._studies.values():
            if sender in study.senders:
                study.senders.discard(sender)
                if not orderly:
                    self.log.event("study.sender_lost", level="warning", study=study.key, objects=study.count)

    def _look(self, uid: str, study: Study, now: float) -> None:
        quiet = now - study.last
        patience = QUIET_S if study.senders else min(QUIET_S, LOOKS * study.cost_s)
        due = quiet >= patience or now - study.looked_at >= max(AGAIN_S, LOOKS * study.cost_s)
        if study.looked != study.count and due and not self._stopping:
            self._seek(study, now, patience)
        jobs = [job for job in self._jobs if job.study is study]
        settle_s = self.timing.settle_s
        for job in jobs:
            own = study.quiet_s(job.found, now)
            if (
                not job.settled.is_set()
                and (quiet >= settle_s or own >= OTHERS * settle_s)
                and study.looked_at > now - own
            ):
                job.settled.set()
        if not jobs and quiet >= self.timing.timeout_s and not self._stopping:
            self._close(study)
            del self._studies[uid]

    def _seek(self, study: Study, now: float, patience: float) -> None:
        """Begin what is complete now; withdraw what has changed since it was begun."""
        scans = [(names_of(found), found) for found in study.scans()]
        study.looked, study.looked_at = study.count, now
        running = [job for job in self._jobs if job.study is study]
        for job in running:
            if not any(names == job.names for names, _ in scans) and not job.withdrawn:
                job.withdraw()
                self.log.event("scan.withdrawn", level="warning", study=study.key, reason="more of it has come")
        for names, found in scans:
            if found.missing or names in study.answered or any(names & job.names for job in running):
                continue
            if study.quiet_s(found, now) < patience:
                study.looked = -1  # complete perhaps, but more is coming
                continue
            before = frozenset[str]().union(*(old for old in study.answered if old & names))
            if not before < names:
                continue  # another choice of images for an answered scan
            if any(self.spool.path(name) is None for name in names):
                continue  # an answered part of it was already removed from done
            if before:
                self.log.event("scan.extended", level="warning", study=study.key, objects=len(names) - len(before))
            self._begin(study, names, found)

    def _begin(self, study: Study, names: frozenset[str], found: FoundDicom) -> None:
        early = study.fed.pop(found.main.first.instance.series_uid, (None, ()))[0]
        job = Job(self._name(study), study, names, found, early)
        self._jobs.append(job)
        self.log.event("scan.complete", study=study.key, job=job.name, objects=len(names), choice=found.reason)
        self._workers.submit(self._work, job).add_done_callback(
            lambda done: self._inbox.put(lambda: self._end(job, done))
        )

    def _end(self, job: Job, done: "Future[str]") -> None:
        """A job's thread has finished: what it says, or what it broke with."""
        self._jobs.remove(job)
        if done.cancelled():
            outcome = "withdrawn"
        elif (bug := done.exception()) is not None:
            outcome = "failed"
            self._fail(job.name, job.study, job.names, f"internal error ({type(bug).__name__}: {bug})")
        else:
            outcome = done.result()
        self._counts[outcome] += 1
        if outcome == "answered":
            job.study.answered = {old for old in job.study.answered if not old < job.names} | {job.names}
        elif outcome == "failed":
            job.study.leave(job.names)
        else:
            job.study.looked = -1

    def _close(self, study: Study) -> None:
        """Nothing more will come: what was not answered fails, with what it misses, or was of no use."""
        for early, _ in study.fed.values():
            early.cancel()
        answered = frozenset[str]().union(*study.answered)
        failed = False
        for found in study.scans():
            names = names_of(found) - answered
            if found.missing and names:
                failed = True
                self._fail(self._name(study), study, names, "; ".join(found.missing))
                study.leave(names)
        rest = study.names() - answered
        if rest and not failed and not answered:
            self._fail(self._name(study), study, rest, study.why_none())
        elif rest:
            name = self._name(study)
            self.spool.claim(name, rest)
            self.spool.set_aside(name, {"study": study.key, "unused": len(rest), "utc": _utc()})
        self.log.event("study.closed", study=study.key, answered=len(study.answered), unused=len(rest))

    def _fail(self, name: str, study: Study, names: frozenset[str], reason: str) -> None:
        if not self.spool.folder("working", name).is_dir():
            self.spool.claim(name, names)
        self.spool.fail(name, {"study": study.key, "reason": reason[:MAX_REASON], "objects": len(names), "utc": _utc()})
        self.log.event("scan.failed", level="error", study=study.key, job=name, reason=reason, objects=len(names))

    def _name(self, study: Study) -> str:
        self._number += 1
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{study.key}-{self._number}"

    # a head start: echoes that are whole while others still come

    def _head_start(self, study: Study) -> None:
        for found in study.scans():
            series = found.main.first.instance.series_uid
            if not found.missing or any(names_of(found) & job.names for job in self._jobs):
                continue
            whole = whole_echoes(found)
            if whole:
                if series not in study.fed:
                    study.fed[series] = (self.core.early(study.key), set())
                early, fed = study.fed[series]
                fresh = [(index, echo) for index, echo in whole if index not in fed]
                fed.update(index for index, _ in fresh)
                self._ahead.submit(self._feed, early, fresh, echo_times_s(found))

    def _feed(self, early: "Early", echoes: Iterable[tuple[int, FoundDicom]], times_s: tuple[float, ...]) -> None:
        for index, found in echoes:
            try:
                scan = found.read(threads=self._threads).scan
            except QsmError:
                continue  # it will be said when the whole is read
            early.echo(
                index,
                scan.magnitude[0],
                scan.phase_rad[0],
                grid=scan.grid,
                echo_times_s=times_s,
                b0_tesla=scan.b0_tesla,
            )

    # a job's own thread

    def _work(self, job: Job) -> str:
        if job.withdrawn:
            return "withdrawn"
        start, read_s = time.perf_counter(), 0.0
        places = self.spool.claim(job.name, job.names)
        reason, answer, acquisition = "", None, None
        try:
            acquisition = placed(job.found, places).read(threads=self._threads)
            read_s = time.perf_counter() - start
            answer = self._reconstruct(job, acquisition)
        except CancelledError:
            job.withdrawn = True
        except QsmError as error:
            reason = str(error)
        job.settled.wait()
        if job.withdrawn or (reason and self._stopping):  # a core that is stopped answers nothing
            self.spool.give_back(job.name)
            return "withdrawn"
        if answer is None or acquisition is None:
            self._fail(job.name, job.study, job.names, reason)
            return "failed"
        self._answer(job, acquisition, answer, {"read_s": read_s, "job_s": time.perf_counter() - start})
        self._deliver(job.name)
        return "answered"

    def _answer(self, job: Job, acquisition: Acquisition, answer: "Answer", timing: dict[str, float]) -> None:
        """Write the derived objects and make them count, when the disk has room again if it has none."""
        for attempt in range(DISK_TRIES):
            start = time.perf_counter()
            try:
                written = self._write(acquisition, answer, self.spool.draft(job.name))
                timing["write_s"] = time.perf_counter() - start
                how = {"recipe": answer.recipe, "late": answer.late, "objects": len(job.names), "derived": written}
                said: dict[str, Any] = {**how, **timing, **answer.record}
                self.spool.answer(job.name, {"study": job.study.key, "utc": _utc(), **said})
                break
            except OutputError as error:
                if attempt == DISK_TRIES - 1:
                    raise
                self.log.event("answer.not_written", level="error", study=job.study.key, reason=str(error))
                time.sleep(DISK_S)
        said |= {"after_last_s": time.monotonic() - job.study.last, "warnings": answer.result.warnings}
        self.log.event("scan.answered", study=job.study.key, job=job.name, **said)

    def _reconstruct(self, job: Job, acquisition: Acquisition) -> "Answer":
        """Wait for the core's answer, and for a place in its queue before."""
        from qsm_runtime.serve.core import Busy

        while True:
            try:
                job.future = self.core.submit(acquisition, job.study.key, early=job.early)
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


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
