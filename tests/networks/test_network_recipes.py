"""Recipes with networks in them, from phase; every packaged recipe runs."""

import numpy as np
import pytest

from qsm_runtime import recipe
from qsm_runtime.grid import Grid
from qsm_runtime.metrics import xsim
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head
from qsm_runtime.phantom.head import Head
from qsm_runtime.pipeline import Result, reconstruct

RUNTIME = Runtime(device="ort-cpu")


@pytest.fixture(scope="module")
def head() -> Head:
    return simulate_head(Grid((52, 62, 52), (3.3, 3.3, 3.3)), seed=7)


@pytest.fixture(scope="module")
def results(head) -> dict[str, Result]:
    return {name: reconstruct(head.scan, recipe.load(name), runtime=RUNTIME) for name in recipe.names()}


@pytest.mark.parametrize("name", recipe.names())
def test_every_packaged_recipe_runs(results, head, name: str) -> None:
    found = results[name]
    assert np.isfinite(found.chi_ppm).all()
    assert found.mask.sum() > 0.7 * head.truth.mask.sum()
    assert not found.chi_ppm[~found.mask].any()
    assert xsim(found.chi_ppm, np.where(found.mask, head.truth.chi_ppm, 0), found.mask) > 0.4


def test_the_network_is_the_better_single_step(results, head) -> None:
    both = results["network"].mask & results["default"].mask
    network, default = (
        xsim(np.where(both, results[name].chi_ppm, 0), np.where(both, head.truth.chi_ppm, 0), both)
        for name in ("network", "default")
    )
    assert network > default + 0.01


@pytest.mark.parametrize(
    ("name", "stage", "model"), [("network", "single_step", "total"), ("hybrid", "inversion", "dipole")]
)
def test_what_ran_is_on_record(results, name: str, stage: str, model: str) -> None:
    said = results[name].record["chosen"][f"{stage}.network"]
    assert said["doubts"] == [] or all("voxel" in doubt for doubt in said["doubts"])
    assert results[name].record["recipe"][stage]["model"] == model
