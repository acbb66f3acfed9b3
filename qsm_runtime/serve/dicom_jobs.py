"""From objects on disk to answers in outgoing: studies are watched, complete scans reconstructed, the rest told.

A scan that looks complete is reconstructed at once, but its answer counts only after nothing more of its study has
come for `settle_s`: the wait costs no time, and slices that come late withdraw the answer before anyone has it. All
state belongs to one thread, which others give work by `_inbox`; each job is followed by a thread of its own.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qsm_runtime.errors import QsmError
from qsm_runtime.io.dicom.find import FoundDicom
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.serve.arrivals import HeadStart, Study, echo_times_s, names_of, whole_echoes
from qsm_runtime.serve.dicom_job import Job, Work, utc
from qsm_runtime.serve.keep import SWEEP_S
from qsm_runtime.serve.log import hashed
from qsm_runtime.serve.spool_files import label_of

TICK_S = 0.05
QUIET_S = 0.3  # without a new object, while its sender is still there: worth a look
AGAIN_S = 1.0  # between looks at a study that keeps coming
LOOKS = 20  # at least so many times as long as a look takes
OTHERS = 3  # times settle_s, where only other series of the study keep coming
LINGER_S = 30.0  # a study all of which was answered is kept in mind: more of it may come
AT_ONCE = 2  # jobs: one is reconstructed while the next is read


@dataclass(frozen=True)
class Timing:
    """settle_s: quiet time before an answer counts. timeout_s: quiet time after which an incomplete study fails."""

    settle_s: float = 2.0
    timeout_s: float = 300.0


class Jobs:
    """Owns every study; `work` is what is done for a scan once it is complete."""

    def __init__(self, work: Work, timing: Timing) -> None:
        self._work, self.timing = work, timing
        self.spool, self.core, self.log = work.spool, work.core, work.log
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._studies: dict[str, Study] = {}
        self._jobs: list[Job] = []
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="dicom-job")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="dicom-early")
        self._thread = threading.Thread(target=self._run, name="dicom-jobs", daemon=True)
        self._stopping = self._stopped = False
        self._counts = {"answered": 0, "failed": 0, "withdrawn": 0}
        self._number = 0
        self._swept = time.monotonic()

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
        self._stopping = self._work.stopping = True
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
        tried = len(self.spool.attempts)
        return {"studies": len(self._studies), "jobs": len(self._jobs), "tried_before": tried, **self._counts}

    # the owner's thread from here on

    def _run(self) -> None:
        looked = 0.0
        while not self._stopped:
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=TICK_S)()
            now = time.monotonic()
            if now - looked >= TICK_S / 2:  # not for each of hundreds of objects a second
                looked = now
                for uid, study in list(self._studies.items()):
                    self._look(uid, study, now)
            if now - self._swept >= SWEEP_S:
                self._swept = now
                self.spool.retire()

    def _add(self, frames: list[Frame], sender: int) -> None:
        uid = frames[0].instance.study_uid
        if uid not in self._studies:
            self._studies[uid] = Study(hashed(uid), label_of(uid))
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

    def _must_wait(self, study: Study) -> bool:
        """Whether it must not be worked on now: what an earlier process ended at is worked on alone."""
        others = {job.study.label for job in self._jobs if job.study is not study}
        return bool(others) and any(self.spool.attempts.before(label) for label in (study.label, *others))

    def _look(self, uid: str, study: Study, now: float) -> None:
        if self._must_wait(study):
            return
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
        if not jobs and quiet >= min(LINGER_S, self.timing.timeout_s) and not self._stopping:
            rest = study.names() - frozenset().union(*study.answered)
            if quiet >= self.timing.timeout_s or not rest:
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
        ahead = study.ahead.pop(found.main.first.instance.series_uid, None)
        if ahead is not None:
            self._hand_over(ahead, found)
        job = Job(self._name(study), study, names, found, ahead)
        self.spool.attempts.begin(study.label)
        self._jobs.append(job)
        self.log.event("scan.complete", study=study.key, job=job.name, objects=len(names), choice=found.reason)
        self._workers.submit(self._work.follow, job).add_done_callback(
            lambda done: self._inbox.put(lambda: self._end(job, done))
        )

    def _end(self, job: Job, done: "Future[str]") -> None:
        """A job's thread has finished: what it says, or what it broke with."""
        self._jobs.remove(job)
        if done.cancelled():
            outcome = "withdrawn"
        elif (bug := done.exception()) is not None:
            outcome = "failed"
            said = str(bug) if isinstance(bug, QsmError) else f"internal error ({type(bug).__name__}: {bug})"
            self._work.fail(job.name, job.study, job.names, said)
        else:
            outcome = done.result()
        self._counts[outcome] += 1
        if outcome != "withdrawn" and not any(other.study is job.study for other in self._jobs):
            self.spool.attempts.ended(job.study.label)
        if outcome == "answered":
            job.study.answered = {old for old in job.study.answered if not old < job.names} | {job.names}
        elif outcome == "failed":
            job.study.leave(job.names)
        job.study.looked = -1  # slices may have come meanwhile

    def _close(self, study: Study) -> None:
        """Nothing more will come: what was not answered fails, with what it misses, or was of no use."""
        for ahead in study.ahead.values():
            ahead.early.cancel()
        answered = frozenset[str]().union(*study.answered)
        failed = False
        for found in study.scans():
            names = names_of(found) - answered
            if found.missing and names:
                failed = True
                self._work.fail(self._name(study), study, names, "; ".join(found.missing))
                study.leave(names)
        rest = study.names() - answered
        if rest and not failed and not answered:
            self._work.fail(self._name(study), study, rest, study.why_none())
        elif rest:
            name = self._name(study)
            self.spool.claim(name, rest)
            self.spool.set_aside(name, {"study": study.key, "unused": len(rest), "utc": utc()})
        self.spool.attempts.ended(study.label)
        self.log.event("study.closed", study=study.key, answered=len(study.answered), unused=len(rest))

    def _name(self, study: Study) -> str:
        self._number += 1
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{study.key}-{self._number}"

    # a head start: echoes that are whole while others still come

    def _head_start(self, study: Study) -> None:
        if self.spool.attempts.before(study.label) or self._must_wait(study):
            return
        running = frozenset[str]().union(*(job.names for job in self._jobs if job.study is study), *study.answered)
        for found in study.scans():
            series = found.main.first.instance.series_uid
            if names_of(found) & running or not whole_echoes(found):
                continue
            if series not in study.ahead:
                self.spool.attempts.begin(study.label)
                study.ahead[series] = HeadStart(self.core.early(study.key))
            self._hand_over(study.ahead[series], found)

    def _hand_over(self, ahead: HeadStart, found: FoundDicom) -> None:
        """Give the core the whole echoes that it does not have yet."""
        fresh = [(index, echo) for index, echo in whole_echoes(found) if index not in ahead.given]
        if fresh:
            ahead.given.update(index for index, _ in fresh)
            ahead.handing.append(self._ahead.submit(self._work.feed, ahead.early, fresh, echo_times_s(found)))
