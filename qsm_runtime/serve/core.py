"""The warm core behind every front end: one reconstruction at a time, in a process of its own.

The process has compiled, planned and loaded everything before the first study. That it is apart leaves the server up
when it runs out of memory or crashes: another takes its place and tries the cheaper recipe, once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from qsm_runtime.errors import QsmError, ReconstructionError, UsageError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.serve import memory, worker
from qsm_runtime.serve.early import Early
from qsm_runtime.serve.process import LostError
from qsm_runtime.serve.settings import Answer, Busy, Settings
from qsm_runtime.serve.supervisor import Question, Reply, Supervisor

if TYPE_CHECKING:
    from qsm_runtime.serve.log import StudyLog

__all__ = ["Answer", "Busy", "Core", "Early", "Settings"]


@dataclass
class _Job:
    acquisition: Acquisition
    study: str
    early: Early | None
    recipe: str
    submitted: float
    deadline: float | None
    future: Future[Answer] = field(default_factory=Future)


class Core:
    """Takes studies from any thread and answers them one after the other. `start` it first, `stop` it at the end.

    recipes: names that a study may ask for; by the first of them it is answered where it does not.
    """

    worker_main = staticmethod(worker.main)

    def __init__(self, settings: Settings, log: StudyLog) -> None:
        self.settings, self._log = settings, log
        self.recipes = tuple(settings.named)
        self._supervisor = Supervisor(settings, log, self.worker_main)
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._woken, self._wake = Pipe(duplex=False)
        self._thread = threading.Thread(target=self._serve, name="qsm-core", daemon=True)
        self._started: Future[None] = Future()
        self._running = ""
        self._stopping = self._halted = False
        self._done = self._failed = 0
        self._last_s: float | None = None

    def start(self) -> None:
        """Returns when the worker is warm. Raises QsmError where it cannot be started."""
        self._thread.start()
        self._started.result()

    @property
    def ready(self) -> bool:
        """Whether a worker is up and studies are taken."""
        return self._supervisor.worker is not None and not self._stopping

    def submit(
        self, acquisition: Acquisition, study: str, *, early: Early | None = None, recipe: str | None = None
    ) -> Future[Answer]:
        """Queue a study; `study` is its hash for the log, `early` what was given its echoes as they came, `recipe` the
        name of what it asks for.

        Raises Busy, and UsageError for a recipe that is not of `recipes`. The future raises QsmError where the study
        cannot be reconstructed: ReconstructionError where the worker ended over it twice, the second time with the
        cheaper recipe.
        """
        now, within_s = time.monotonic(), self.settings.deadline_s
        job = _Job(acquisition, study, early, self._asked(recipe), now, None if within_s is None else now + within_s)
        with self._lock:
            if self._stopping:
                raise Busy("the server is stopping and takes no more studies; send it again later")
            if len(self._jobs) >= self.settings.queue:
                raise Busy(f"{len(self._jobs)} studies are waiting, which is the limit; send it again later")
            self._jobs.append(job)
        self._wake.send_bytes(b"study")
        return job.future

    def early(self, study: str, recipe: str | None = None) -> Early:
        """For the echoes of a study that is still arriving. Raises UsageError as `submit` does."""
        self._log.event("early_opened", level="debug", study=study)
        return self._supervisor.early(self._asked(recipe))

    def _asked(self, recipe: str | None) -> str:
        """A recipe as the worker is told it: empty for the one by which it answers anyhow."""
        if recipe is not None and recipe not in self.recipes:
            raise UsageError(f"recipe {recipe} is not allowed here; allowed are {', '.join(self.recipes)}")
        return "" if recipe is None or recipe == self.recipes[0] else recipe

    def state(self) -> dict[str, Any]:
        """Plain values for a status page."""
        process = self._supervisor.worker
        return {
            "ready": self.ready,
            "recipes": list(self.recipes),
            "queued": len(self._jobs),
            "running": self._running,
            "done": self._done,
            "failed": self._failed,
            "restarts": self._supervisor.restarts,
            "worker_pid": None if process is None else process.pid,
            "memory_mib": None if process is None else memory.held_mib(process.pid),
            "last_s": self._last_s,
        }

    def stop(self, drain_s: float = 60.0) -> None:
        """Take no more studies, finish those that were taken for `drain_s`, refuse the rest, and end the worker."""
        with self._lock:
            self._stopping = True
        if not self._thread.is_alive():
            return
        self._wake.send_bytes(b"stop")
        self._thread.join(drain_s)
        if self._thread.is_alive():
            self._halted = True
            self._supervisor.halt()
            self._thread.join()

    # what follows runs in the core's own thread

    def _serve(self) -> None:
        try:
            self._supervisor.launch(self.settings.warm_shapes)
        except QsmError as error:
            self._stopping = True
            self._started.set_exception(error)
        else:
            self._started.set_result(None)
        try:
            while (job := self._next()) is not None:
                try:
                    self._answer(job)
                finally:
                    self._refuse(job, "the server failed")
                self._running = ""
                del job
        finally:
            self._stopping = True
            self._supervisor.end()
            with self._lock:
                jobs, self._jobs = list(self._jobs), deque()
            for job in jobs:
                self._refuse(job, "the server stopped before this study's turn")

    def _next(self) -> _Job | None:
        """The next study, once there is one; None: there will be none."""
        while True:
            with self._lock:
                if self._jobs and not self._halted:
                    job = self._jobs.popleft()
                    self._running = job.study
                    return job
                if self._stopping:
                    return None
            self._supervisor.watch(self._woken)
            while self._woken.poll():
                self._woken.recv_bytes()

    def _answer(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        scan, mask = job.acquisition.scan, job.acquisition.mask
        begin, reasons = time.monotonic(), []
        for cheaper in (False, True):
            try:
                reply = self._supervisor.ask(Question(scan, mask, job.early, cheaper, job.deadline, job.recipe))
            except LostError as lost:
                self._supervisor.lose(lost, job.study)
                reasons.append(str(lost))
                if self._halted:
                    break
            except QsmError as error:
                self._fail(job, error)
                return
            else:
                self._succeed(job, reply, begin, reasons)
                return
        twice = " and, by the cheaper recipe, ".join(reasons)
        self._fail(job, ReconstructionError(f"the reconstruction did not end well: {twice}; the images are untouched"))

    def _succeed(self, job: _Job, reply: Reply, begin: float, reasons: list[str]) -> None:
        result, done, end = reply.result, reply.done, time.monotonic()
        overdue = job.deadline is not None and end > job.deadline
        late = done.late or (bool(reasons) and overdue)
        if done.late:
            result.warnings.append(f"recipe {done.recipe} answered: the one asked for would have missed the deadline")
        elif reasons:
            result.warnings.append(f"recipe {done.recipe} answered: the worker ended at the first try ({reasons[0]})")
        record: dict[str, Any] = {
            "queue_s": round(begin - job.submitted, 4),
            "seconds": dict(result.record["seconds"]),
            "all_s": round(end - job.submitted, 4),
            "peak_mib": done.peak_mib,
            "overlapped_s": round(reply.overlapped_s, 4),
            "attempts": len(reasons) + 1,
        }
        self._done += 1
        self._last_s = record["all_s"]
        self._log.event("reconstructed", study=job.study, recipe=done.recipe, late=late, overdue=overdue, **record)
        job.future.set_result(Answer(result, done.recipe, late, record))

    def _fail(self, job: _Job, error: QsmError) -> None:
        self._failed += 1
        self._log.event("not_reconstructed", level="error", study=job.study, reason=str(error))
        job.future.set_exception(error)

    def _refuse(self, job: _Job, reason: str) -> None:
        """Give an answer to a study that has none."""
        if not job.future.done() and (job.future.running() or job.future.set_running_or_notify_cancel()):
            self._fail(job, ReconstructionError(f"{reason}; the images are untouched"))
