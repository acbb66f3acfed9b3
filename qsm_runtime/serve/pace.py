"""How long a recipe will take, from the studies before: what decides whether a deadline can be kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from qsm_runtime.calls import Event

KEPT = 32  # matrix sizes remembered
NEWEST = 0.5  # weight of the newest study
BETWEEN = "between"  # stages: crops, copies
TRUSTED_S = 0.2  # work after which a study's own speed is compared with the expected one

Shape = tuple[int, ...]  # of the images: (echo, x, y, z)


@dataclass
class Pace:
    """Seconds of each stage, in order, by recipe and shape of the images."""

    known: dict[tuple[str, Shape], dict[str, float]] = field(default_factory=dict)

    def learn(self, recipe: str, shape: Shape, seconds: Mapping[str, float], all_s: float) -> None:
        """seconds: of each stage, in order; all_s: of the stages and what lies between them."""
        seconds = {**seconds, BETWEEN: max(0.0, all_s - sum(seconds.values()))}
        before = self.known.pop((recipe, shape), seconds)
        new = {stage: NEWEST * s + (1 - NEWEST) * before.get(stage, s) for stage, s in seconds.items()}
        self.known[recipe, shape] = new
        if len(self.known) > KEPT:
            del self.known[next(iter(self.known))]

    def expected(self, recipe: str, shape: Shape) -> dict[str, float] | None:
        """Seconds of each stage; of another shape's, the newest, in proportion to the voxels. None: never seen."""
        if (recipe, shape) in self.known:
            return self.known[recipe, shape]
        for (name, other), seconds in reversed(self.known.items()):
            if name == recipe:
                return {stage: s * prod(shape) / prod(other) for stage, s in seconds.items()}
        return None

    def total_s(self, recipe: str, shape: Shape) -> float | None:
        seconds = self.expected(recipe, shape)
        return None if seconds is None else sum(seconds.values())


@dataclass
class Course:
    """One study on its way: what is left to do, from what was expected and from its own events.

    expected: seconds of each stage, in order; None where nothing is known.
    """

    expected: Mapping[str, float] | None
    _last: Event | None = None
    _done_s: float = 0.0

    def rest_s(self, event: Event) -> float | None:
        """Seconds from `event` to the end; None where neither gives an answer."""
        same = self._last if self._last is not None and self._last.stage == event.stage else None
        own = None
        if same is not None and 0 < same.fraction < event.fraction:  # the way to the first step says little
            own = (event.seconds - same.seconds) / (event.fraction - same.fraction) * (1 - event.fraction)
        self._last = event
        if event.fraction == 1:
            self._done_s += event.seconds
        if self.expected is None or event.stage not in self.expected:
            return own
        stages = list(self.expected)
        place = stages.index(event.stage)
        before = sum(self.expected[s] for s in stages[:place])
        after = sum(self.expected[s] for s in stages[place + 1 :])
        here = self.expected[event.stage]
        slower = 1.0
        if place and before > TRUSTED_S:
            finished = self._done_s - (event.seconds if event.fraction == 1 else 0.0)
            slower = max(1.0, finished / before)
        return (after + (here * (1 - event.fraction))) * slower if own is None else after * slower + own
