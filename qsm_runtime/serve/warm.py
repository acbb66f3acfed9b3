"""What a worker does before its first study, so that no study pays for it: imports, kernels, plans, models."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qsm_runtime import pipeline
from qsm_runtime import recipe as recipes
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head
from qsm_runtime.recipe import Recipe
from qsm_runtime.scan import Scan
from qsm_runtime.serve.pace import Pace
from qsm_runtime.serve.settings import Settings

SMALL = Grid((48, 56, 48), (4.0, 4.0, 4.0))  # enough for every kernel to be compiled
FIELD_OF_VIEW_MM = 240.0  # of a head, along the longest axis of a shape to be warm for


@dataclass(frozen=True)
class Prepared:
    """The recipes of a worker, the one that is wanted, a cheaper one, and all by name; how networks are run."""

    recipe: Recipe
    cheaper: Recipe
    named: Mapping[str, Recipe]
    runtime: Runtime | None

    def asked(self, name: str) -> "Prepared":
        """The same for a study that asks for a recipe; empty: for none."""
        return replace(self, recipe=self.named[name]) if name else self

    @property
    def same_field(self) -> bool:
        return pipeline.same_field(self.recipe, self.cheaper)


def prepare(settings: Settings) -> Prepared:
    """Raises QsmError where a recipe does not exist or asks for what cannot be run."""
    set_threads(settings.threads)
    wanted, cheaper = recipes.load(settings.recipe), recipes.load(settings.cheaper)
    cheaper = wanted if cheaper == wanted else cheaper
    named = {name: recipes.load(text) for name, text in settings.named.items()}
    return Prepared(wanted, cheaper, {**named, cheaper.name: cheaper, wanted.name: wanted}, settings.runtime)


def warm_up(ready: Prepared, shapes: tuple[tuple[int, int, int], ...], pace: Pace) -> None:
    """Reconstruct a simulated head by every recipe; one of each shape too, whose times `pace` learns.

    Small heads teach no times: coarse voxels take other iterations than fine ones.
    """
    head = simulate_head(SMALL).scan
    for recipe in ready.named.values():
        pipeline.reconstruct(head, recipe, runtime=ready.runtime)
    for shape in shapes:
        scan = enlarged(head, shape)
        pipeline.reconstruct(scan, ready.recipe, runtime=ready.runtime)  # plans the FFTs
        for recipe in ready.named.values():
            start = time.perf_counter()
            result = pipeline.reconstruct(scan, recipe, runtime=ready.runtime)
            pace.learn(recipe.name, scan.magnitude.shape, result.record["seconds"], time.perf_counter() - start)


def enlarged(scan: Scan, shape: tuple[int, int, int]) -> Scan:
    """A scan on `shape`, from the nearest voxels: quick, and a head to every method."""
    old = scan.grid.shape
    x, y, z = (np.minimum(np.arange(n) * m // n, m - 1) for n, m in zip(shape, old, strict=True))
    place = np.ix_(np.arange(scan.n_echoes), x, y, z)
    edge_mm = FIELD_OF_VIEW_MM / max(shape)
    grid = Grid(shape, (edge_mm, edge_mm, edge_mm))
    return Scan(scan.magnitude[place], scan.phase_rad[place], scan.echo_times_s, scan.b0_tesla, grid)
