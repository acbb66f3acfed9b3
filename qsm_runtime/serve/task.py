"""One study in the worker: from its echoes to an outcome, watched for its deadline on the way."""

import contextlib
import itertools
import time
from dataclasses import dataclass, field

import numpy as np

from qsm_runtime import pipeline
from qsm_runtime.calls import Event
from qsm_runtime.errors import QsmError, UsageError
from qsm_runtime.recipe import Recipe
from qsm_runtime.scan import Scan
from qsm_runtime.serve import memory
from qsm_runtime.serve.messages import Open, Run
from qsm_runtime.serve.pace import Course
from qsm_runtime.serve.rehearse import in_time, rehearse
from qsm_runtime.serve.shared import Region, unpacked
from qsm_runtime.serve.warm import Prepared


class DroppedError(Exception):
    """Nobody wants this study's answer any more."""


class TooSlowError(Exception):
    """The recipe would not be done by the deadline."""


@dataclass
class Outcome:
    """What became of a study: a result or a refusal, when (time.monotonic) and by which recipe."""

    recipe: str
    late: bool
    start: float
    end: float
    peak_mib: float | None
    result: pipeline.Result | None = None
    error: QsmError | None = None


@dataclass
class Task:
    """A study that was asked for (`run`), or one whose echoes are still coming in (`opened`), and its region.

    The listening thread sets what the working thread reads: run, dropped, hurried, arrived.
    arrived: when each echo came (time.monotonic). hurried: another study waits. spared_s: by a rehearsal.
    """

    number: int
    region: Region
    opened: Open | None = None
    arrived: dict[int, float] = field(default_factory=dict)
    run: Run | None = None
    dropped: bool = False
    hurried: bool = False
    answered: bool = False
    rehearsed: bool = False
    spared_s: float = 0.0
    outcome: Outcome | None = None
    _images: tuple[Scan, np.ndarray | None] | None = None

    @property
    def complete(self) -> bool:
        """Whether every voxel is there."""
        return self.opened is None or len(self.arrived) == len(self.opened.echo_times_s)

    @property
    def recipe(self) -> str:
        """The name of the recipe that it asks for; empty: the server's."""
        told = self.opened if self.run is None else self.run
        return "" if told is None else told.recipe

    @property
    def images(self) -> tuple[Scan, np.ndarray | None]:
        """The scan and the user's mask, in shared memory. Raises QsmError where early echoes make no valid scan."""
        if self._images is None and self.opened is not None:
            self._images = self._first_echoes(len(self.opened.echo_times_s)), None
        elif self._images is None and self.run is not None:
            self._images = unpacked(self.run.text, self.region)
        if self._images is None:
            raise UsageError("a study without images")
        return self._images

    def _first_echoes(self, count: int) -> Scan:
        opened = self.opened
        if opened is None:
            raise UsageError("a study that was not opened early")
        shape = (2, len(opened.echo_times_s), *opened.grid.shape)
        magnitude, phase_rad = np.frombuffer(self.region.map(), np.float32, int(np.prod(shape))).reshape(shape)
        times_s = opened.echo_times_s[:count]
        return Scan(magnitude[:count], phase_rad[:count], times_s, opened.b0_tesla, opened.grid)

    def rehearse(self, ready: Prepared) -> None:
        """Prepare for the study by the echoes that are there, once, if there is time for it."""
        if self.opened is None or self.rehearsed:
            return
        count = next(n for n in itertools.count() if n not in self.arrived)  # the first ones, without a gap
        times = sorted(self.arrived[n] for n in range(count))
        if not in_time(times, len(self.opened.echo_times_s), self.opened.grid.shape):
            return
        self.rehearsed = True
        with contextlib.suppress(QsmError):  # some of the echoes need not make a study
            scan = self._first_echoes(count)
            self.spared_s = rehearse(scan, ready.recipe, ready.runtime, self._over)

    def _over(self) -> bool:
        return self.complete or self.dropped or self.hurried


class _Watch:
    """Stops a task at its next event, if it was dropped or would miss its deadline."""

    def __init__(self, task: Task, ready: Prepared, recipe: Recipe) -> None:
        self.task, self.ready, self.recipe = task, ready, recipe
        self.course: Course | None = None

    def __call__(self, event: Event) -> None:
        if self.task.dropped:
            raise DroppedError
        run = self.task.run
        if run is None or run.deadline is None or self.recipe is self.ready.cheaper:
            return
        shape = self.task.images[0].magnitude.shape
        if self.course is None:
            self.course = Course(run.pace.expected(self.recipe.name, shape))
        rest_s, left_s = self.course.rest_s(event), run.deadline - time.monotonic()
        if self.ready.same_field and event.stage in pipeline.TO_FIELD:
            return  # the cheaper recipe needs it too
        if (left_s < 0 if rest_s is None else left_s < rest_s) and event.fraction < 1:
            raise TooSlowError


def work(task: Task, ready: Prepared) -> Outcome:
    """Reconstruct a complete study. Raises DroppedError, MemoryError."""
    memory.reset_peak()
    start = time.monotonic()
    recipe = ready.cheaper if task.run is not None and task.run.cheaper else ready.recipe
    late, result, error, measured = False, None, None, None
    try:
        scan, mask = task.images
        watch = _Watch(task, ready, recipe)
        try:
            measured = pipeline.measure(scan, recipe, mask=mask, progress=watch, runtime=ready.runtime)
            result = pipeline.reconstruct(scan, recipe, progress=watch, runtime=ready.runtime, measured=measured)
        except TooSlowError:
            late = True
        if late:  # outside of the handler, which would hold on to the arrays
            recipe = ready.cheaper
            watch = _Watch(task, ready, recipe)
            if measured is not None and not measured.serves(recipe):
                measured = None
            result = pipeline.reconstruct(
                scan, recipe, mask=mask, progress=watch, runtime=ready.runtime, measured=measured
            )
    except QsmError as refusal:
        error = refusal.with_traceback(None)
    return Outcome(recipe.name, late, start, time.monotonic(), memory.peak_mib(), result, error)
