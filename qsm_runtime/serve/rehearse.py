"""What can be done for a study before all of its echoes are there, though every stage needs them all.

The mask takes the signal of every echo, and all that follows takes the mask, so no stage's result can be had early
without changing it. What can be had is what a new head's size costs: FFTs of a shape not seen before are planned for
seconds. So the recipe is rehearsed on the echoes that are there, with one iteration where it iterates: its mask has
very nearly the box of the whole study's, and the plans are there when the study is.
"""

import contextlib
import time
from collections.abc import Callable
from math import prod

from qsm_runtime import pipeline, stages
from qsm_runtime.calls import Event
from qsm_runtime.errors import QsmError
from qsm_runtime.kernels import fft
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.recipe import Recipe
from qsm_runtime.scan import Scan

LEAST_ECHOES = 2  # a phase offset cannot be told from one
S_PER_VOXEL = 1.5e-6  # what a rehearsal takes, plans included, on two cores: mask, field and a single iteration


class OverError(Exception):
    """The study is complete, or another waits."""


def in_time(arrived_s: list[float], echoes: int, shape: tuple[int, ...]) -> bool:
    """Whether a rehearsal would be over before the last of the study's echoes comes, going by the ones so far.

    arrived_s: when each of the first echoes came (time.monotonic).
    """
    if len(arrived_s) < LEAST_ECHOES:
        return False
    apart_s = (arrived_s[-1] - arrived_s[0]) / (len(arrived_s) - 1)
    over_s = arrived_s[-1] + apart_s * (echoes - len(arrived_s))
    return time.monotonic() + S_PER_VOXEL * prod(shape) < over_s


def rehearse(scan: Scan, recipe: Recipe, runtime: Runtime | None, over: Callable[[], bool]) -> float:
    """Go through a recipe on some of a study's echoes until `over` at an event; the seconds of planning it spared."""
    planned = fft.planning_seconds

    def stop_when_over(event: Event) -> None:
        if over():
            raise OverError

    with contextlib.suppress(OverError, QsmError):  # some of the echoes need not make a study
        pipeline.reconstruct(scan, once(recipe), progress=stop_when_over, runtime=runtime)
    return fft.planning_seconds - planned


def once(recipe: Recipe) -> Recipe:
    """The recipe with one iteration where a method counts them."""
    for stage in recipe.used:
        for option in stages.options(stages.method(stage, recipe.steps[stage].method)).values():
            usual = recipe.steps[stage].options.get(option.name, option.default)
            if option.name.endswith("iterations") and isinstance(usual, int | tuple):
                recipe = recipe.with_option(stage, option.name, (1,) * len(usual) if isinstance(usual, tuple) else 1)
    return recipe
