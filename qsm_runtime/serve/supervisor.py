"""Keeps one worker process running, asks it for one study at a time, and bounds how long that may take."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import numpy as np

from qsm_runtime import recipe as recipes
from qsm_runtime.errors import QsmError, ReconstructionError
from qsm_runtime.pipeline import Result
from qsm_runtime.scan import Scan
from qsm_runtime.serve.early import Early
from qsm_runtime.serve.messages import Done, Refused, Run
from qsm_runtime.serve.pace import Pace
from qsm_runtime.serve.process import LostError, WorkerProcess
from qsm_runtime.serve.settings import Settings
from qsm_runtime.serve.shared import Packed, unpacked

if TYPE_CHECKING:
    from qsm_runtime.serve.log import StudyLog

SILENT_S = 60.0  # a study whose echoes come no more gives up its place in the worker
LIMIT_S = 600.0  # an answer takes no longer, where nothing is known about the worker's speed
LIMIT_TIMES, LEAST_LIMIT_S = 10.0, 30.0  # ... and this many times what is expected, at least so much, where it is
GRACE_S, GRACE_TIMES = 10.0, 2.0  # after a deadline, for a worker that is about to answer
PAUSES_S = (0.0, 1.0, 5.0, 30.0)  # before attempts to replace a worker that does not come up


@dataclass(frozen=True)
class Question:
    """A study, whether by the cheaper recipe, by when (time.monotonic), and the recipe's name if it asks for one."""

    scan: Scan
    mask: np.ndarray | None
    early: Early | None
    cheaper: bool
    deadline: float | None
    recipe: str = ""


@dataclass(frozen=True)
class Reply:
    """What the worker made of it; overlapped_s of the work were done before it was asked."""

    result: Result
    done: Done
    overlapped_s: float


class Supervisor:
    """`ask`, `launch`, `watch` and `end` are called by one thread, the rest by any."""

    def __init__(self, settings: Settings, log: StudyLog, main: Callable[..., None]) -> None:
        self._settings, self._log, self._main = settings, log, main
        self._names = tuple(recipes.load(name).name for name in (settings.recipe, settings.cheaper))
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._place: Early | None = None  # whose echoes the worker takes
        self._pace = Pace()
        self._process: WorkerProcess | None = None
        self._halted = False
        self.worker: WorkerProcess | None = None
        self.restarts = 0

    def early(self, recipe: str = "") -> Early:
        return Early(next(self._numbers), self._claim, recipe)

    def _claim(self, early: Early) -> WorkerProcess | None:
        """The worker, if no other study has the place in it."""
        with self._lock:
            before, now = self._place, time.monotonic()
            if before is not None and not before.over and now - before.touched < SILENT_S:
                return None
            self._place = early
        if before is not None:
            before.cancel()
        return self.worker

    def launch(self, shapes: tuple[tuple[int, int, int], ...] | None) -> WorkerProcess:
        """Start a worker, warm for these shapes; None: for nothing, someone waits. Raises QsmError."""
        process = WorkerProcess(self._main, self._settings, shapes)
        self._process = process
        if self._halted:
            process.kill()
        try:
            ready = process.wait_ready()
        except LostError as lost:
            raise ReconstructionError(f"the worker cannot start: {lost}") from None
        self._pace.known = {**ready.pace.known, **self._pace.known}
        self._log.event("worker_ready", pid=process.pid, seconds=round(ready.seconds, 2))
        self.worker = process
        return process

    def watch(self, woken: Connection) -> None:
        """Wait until something comes through `woken`; replace the worker if it ends meanwhile."""
        if self.worker is None:
            self._replace(woken)
        elif woken not in wait([woken, *self.worker.signals]):
            try:
                self.worker.hear(1.0)  # an answer that nobody waits for any more
            except LostError as lost:
                self.lose(lost)

    def _replace(self, woken: Connection) -> None:
        for pause_s in PAUSES_S:
            if woken.poll(pause_s):
                return
            try:
                self.launch(())
            except QsmError as error:
                self._log.event("worker_failed", level="error", reason=str(error))
            else:
                return

    def lose(self, lost: LostError, study: str = "") -> None:
        """The worker is gone."""
        self.worker, self._place = None, None
        self.restarts += 1
        self._log.event("worker_lost", level="error", study=study, reason=str(lost))

    def halt(self) -> None:
        """End the worker at once, now and whenever there is another."""
        self._halted = True
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.worker = None

    def ask(self, question: Question) -> Reply:
        """The worker's reply. Raises LostError where it ends over it, QsmError where it refuses."""
        worker, early, scan = self.worker or self.launch(None), question.early, question.scan
        cheaper, recipe = question.cheaper, question.recipe
        now, deadline, pace = time.monotonic(), question.deadline, self._pace
        ahead = early is not None and early.recipe == recipe and question.mask is None and not cheaper
        if ahead and early is not None and early.on(worker) and early.holds(scan):
            number = early.number
            worker.tell(Run(number, cheaper, now, deadline, pace, recipe=recipe))
        else:
            ahead, number = False, next(self._numbers)
            self._make_room(early)
            try:
                packed = Packed((scan, question.mask))
            except OSError as error:
                raise ReconstructionError(f"no room for the images in memory: {error.strerror}") from None
            worker.tell(Run(number, cheaper, now, deadline, pace, packed.text, recipe), packed.region)
            del packed  # the worker holds the images now
        end = time.monotonic() + self._limit_s(question)
        while True:
            message, region = worker.hear(max(0.0, end - time.monotonic()))
            if isinstance(message, Refused) and message.number == number:
                raise message.error
            if isinstance(message, Done) and message.number == number and region is not None:
                break
        result: Result = unpacked(message.text, region)
        all_s = 0.0 if message.late else message.busy_s  # the work in vain would count
        self._pace.learn(message.recipe, scan.magnitude.shape, result.record["seconds"], all_s)
        with self._lock:
            if self._place is early:
                self._place = None
        copied_s = early.copied_s if ahead and early is not None else 0.0
        return Reply(result, message, message.overlapped_s + copied_s)

    def _make_room(self, early: Early | None) -> None:
        """No work ahead while someone waits: not for this study, whose echoes were other ones, nor for another's."""
        place = self._place
        if early is not None:
            early.cancel()
        if place is not None and place.complete:
            place.cancel()

    def _limit_s(self, question: Question) -> float:
        """Seconds from now after which the worker hangs."""
        own, cheaper = self._names
        name = cheaper if question.cheaper else question.recipe or own
        expected = self._pace.total_s(name, question.scan.magnitude.shape)
        limit = LIMIT_S if expected is None else max(LEAST_LIMIT_S, LIMIT_TIMES * expected)
        if question.deadline is None or question.cheaper:
            return limit
        grace = max(GRACE_S, GRACE_TIMES * (expected or 0.0))
        return min(limit, max(0.0, question.deadline - time.monotonic()) + grace)
