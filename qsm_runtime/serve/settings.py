"""What the core is asked to be and what it gives."""

from dataclasses import dataclass
from typing import Any

from qsm_runtime import recipe as recipes
from qsm_runtime.errors import QsmError, UsageError
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.pipeline import Result

SMALLEST = 16  # voxels along an axis of a shape to be warm for


class Busy(QsmError):
    """The queue is full: try again later."""


@dataclass(frozen=True)
class Settings:
    """How the core works; checked when made.

    recipe, cheaper  names or .toml files: what answers, and what does where that would be late or has failed
    allowed          more of them, which a study may ask for by name
    deadline_s       from `submit` to the answer; None: none
    threads          of the worker; None: all
    queue            studies that may wait, beside the one that is worked on
    runtime          how networks are run
    warm_shapes      matrix sizes to be warm for: their FFTs planned, and the time they take known
    """

    recipe: str = "default"
    cheaper: str = "fast"
    allowed: tuple[str, ...] = ()
    deadline_s: float | None = None
    threads: int | None = None
    queue: int = 4
    runtime: Runtime | None = None
    warm_shapes: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        named = self.named
        for text in self.allowed:
            if named[(name := recipes.load(text).name)] != text:
                raise UsageError(f"two recipes are called {name}: {named[name]} and {text}; rename the file of one")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise UsageError(f"the deadline must be above 0 s, got {self.deadline_s}")
        if self.queue < 1:
            raise UsageError(f"the queue must hold one study or more, got {self.queue}")
        for shape in self.warm_shapes:
            if len(shape) != 3 or min(shape) < SMALLEST:
                raise UsageError(f"a shape to be warm for has three sizes of {SMALLEST} or more, got {shape}")

    @property
    def named(self) -> dict[str, str]:
        """What a study may ask for: recipes by name, as they are loaded; the one that answers comes first."""
        found: dict[str, str] = {}
        for text in (self.recipe, self.cheaper, *self.allowed):
            found.setdefault(recipes.load(text).name, text)
        return found


@dataclass(frozen=True)
class Answer:
    """A study's maps, as pipeline.reconstruct gives them, and how they came about.

    recipe: the one that answered. late: it is the cheaper one, because of the deadline.
    record: queue_s, seconds (of each stage), all_s (since `submit`), peak_mib (of the worker, for this study),
    overlapped_s (work done before the study was submitted), attempts.
    """

    result: Result
    recipe: str
    late: bool
    record: dict[str, Any]
