"""Calling a recipe's stages: reserved keywords supplied, times, events, warnings and choices kept."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qsm_runtime import stages
from qsm_runtime.errors import QsmWarning
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.recipe import Recipe


@dataclass(frozen=True)
class Event:
    """Stage `stage` (its method named) is `fraction` done after `seconds`; fraction 1 ends it."""

    stage: str
    method: str
    fraction: float
    seconds: float


class Calls:
    """Calls stages: supplies the reserved keywords, times, reports, and collects warnings and records."""

    def __init__(self, recipe: Recipe, progress: Callable[[Event], None] | None) -> None:
        self.recipe, self.progress = recipe, progress
        self.supply: dict[str, Any] = {}
        self.record: dict[str, Any] = {
            "recipe": recipe.as_dict(),
            "threads": get_threads(),
            "seconds": {},
            "chosen": {},
        }
        self.warnings: list[str] = []

    def go_on(self, recipe: Recipe, progress: Callable[[Event], None] | None) -> "Calls":
        """Calls of the stages after these, for a recipe with the same stages so far; these stay as they are."""
        new = Calls(recipe, progress)
        new.supply, new.warnings = dict(self.supply), list(self.warnings)
        kept = {key: dict(value) if isinstance(value, dict) else value for key, value in self.record.items()}
        new.record = kept | {"recipe": new.record["recipe"] | {"mask": self.record["recipe"]["mask"]}}  # or the user's
        return new

    def __call__(self, stage: str, *arguments: Any) -> Any:
        step = self.recipe.steps[stage]
        return self.call(stage, step.method, stages.method(stage, step.method), arguments, step.options)

    def call(self, stage: str, name: str, function: Callable[..., Any], arguments: Sequence[Any], options: Any) -> Any:
        start = time.perf_counter()

        def report(fraction: float) -> None:
            if self.progress:
                self.progress(Event(stage, name, fraction, time.perf_counter() - start))

        own = {
            "progress": report,
            "record": lambda key, value: self.record["chosen"].update({f"{stage}.{key}": value}),
        }
        extra = {key: (self.supply | own).get(key) for key in stages.supplied(function)}
        report(0.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", QsmWarning)
            result = function(*arguments, **extra, **options)
        self.warn(*(str(w.message) for w in caught))
        self.record["seconds"][stage] = round(time.perf_counter() - start, 4)
        report(1.0)
        return result

    def warn(self, *messages: str) -> None:
        self.warnings += [m for m in messages if m not in self.warnings]
