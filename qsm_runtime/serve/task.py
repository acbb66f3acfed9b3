"""One study in the worker: from its echoes to an outcome, watched for its deadline on the way."""

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

    The listening thread sets what the working thread reads: run, asked_at, dropped, present.
    """

    number: int
    region: Region
    opened: Open | None = None
    present: set[int] = field(default_factory=set)
    run: Run | None = None
    asked_at: float = 0.0
    dropped: bool = False
    answered: bool = False
    outcome: Outcome | None = None
    _images: tuple[Scan, np.ndarray | None] | None = None

    @property
    def complete(self) -> bool:
        """Whether every voxel is there."""
        return self.opened is None or len(self.present) == len(self.opened.echo_times_s)

    @property
    def images(self) -> tuple[Scan, np.ndarray | None]:
        """The scan and the user's mask, in shared memory. Raises QsmError where early echoes make no valid scan."""
        if self._images is None and self.opened is not None:
            opened = self.opened
            shape = (2, len(opened.echo_times_s), *opened.grid.shape)
            echoes = np.frombuffer(self.region.map(), np.float32, int(np.prod(shape))).reshape(shape)
            magnitude, phase_rad = echoes
            self._images = Scan(magnitude, phase_rad, opened.echo_times_s, opened.b0_tesla, opened.grid), None
        elif self._images is None and self.run is not None:
            self._images = unpacked(self.run.text, self.region)
        if self._images is None:
            raise UsageError("a study without images")
        return self._images


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
