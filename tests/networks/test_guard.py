"""A network cannot be fed wrongly: units and B0 are refused, the rest is said."""

import json

import numpy as np
import pytest
from small_model import convolutions, fields_of

from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.networks import card as cards
from qsm_runtime.networks import guard
from qsm_runtime.phantom import simulate_head
from qsm_runtime.units import GAMMA_HZ_PER_T, rad_per_ppm

OBLIQUE = (0.35, 0.2, 0.92)


@pytest.fixture(scope="module", params=[(0.0, 0.0, 1.0), OBLIQUE])
def head(request: pytest.FixtureRequest):
    grid = Grid((64, 76, 64), (2.6, 2.6, 2.6), request.param)
    truth = simulate_head(grid, oversample=1).truth
    return truth.local_ppm, truth.total_ppm, truth.mask, grid


def test_ppm_pass_and_other_units_do_not(head) -> None:
    local, total, mask, _ = head
    assert guard.check_units(local, mask, "local_field") == []
    assert guard.check_units(total, mask, "total_field") == []
    assert "phase in rad" in guard.check_units(local * np.float32(rad_per_ppm(3.0, 0.02)), mask, "local_field")[0]
    hz = GAMMA_HZ_PER_T * 3e-6
    for field, name in ((local, "local_field"), (total, "total_field")):
        for factor, said in ((hz, "Hz, rad or ppb"), (1000, "Hz, rad or ppb"), (1e-6, "tesla or a share")):
            with pytest.raises(InputError, match=said):
                guard.check_units(field * np.float32(factor), mask, name)
    with pytest.raises(InputError, match="Hz, rad"):
        guard.check_units(local * np.float32(rad_per_ppm(7.0, 0.025)), mask, "local_field")
    broken = local.copy()
    broken[tuple(np.argwhere(mask)[0])] = np.nan
    with pytest.raises(InputError, match="not finite"):
        guard.check_units(broken, mask, "local_field")


@pytest.mark.parametrize("noise_ppm", [0.0, 0.005])
def test_b0_is_found_where_it_is(head, noise_ppm: float) -> None:
    local, _, mask, grid = head
    noise = np.random.default_rng(0).standard_normal(local.shape).astype(np.float32)
    field = local + np.float32(noise_ppm) * noise
    right = guard.look(field, mask, grid)
    assert right is not None
    guard.check_b0(right, grid)
    assert guard.doubts(right) == []
    if grid.b0_dir[2] < 0.95:
        return
    for axis in ((1, 0, 0), (0, 1, 0)):
        wrong = Grid(grid.shape, grid.voxel_mm, axis)
        seen = guard.look(field, mask, wrong)
        assert seen is not None
        with pytest.raises(InputError, match="along the array's z axis"):
            guard.check_b0(seen, wrong)


def test_a_turned_sign_is_doubted(head) -> None:
    local, _, mask, grid = head
    seen = guard.look(-local, mask, grid)
    assert seen is not None
    assert any("sign of the phase" in said for said in guard.doubts(seen))


def test_small_masks_are_not_judged() -> None:
    grid = Grid((20, 20, 20))
    assert guard.look(np.ones(grid.shape, np.float32), np.ones(grid.shape, bool), grid) is None


def test_what_lies_outside_the_domain_is_named() -> None:
    card = cards.parse(
        json.dumps(
            fields_of("small", convolutions())
            | {
                "domain": {
                    "b0_tesla": [3, 3],
                    "chi_ppm": [-0.1, 0.3],
                    "field_ppm": [-0.1, 0.1],
                    "voxel_mm": [0.9, 1.1],
                    "angle_deg": [0, 10],
                    "snr": [50, 200],
                    "anatomy": "brain",
                }
            }
        ),
        "test",
    )
    mask = np.ones((8, 8, 8), bool)
    inside = Grid(mask.shape)
    field = np.linspace(-0.09, 0.09, 512, dtype=np.float32).reshape(mask.shape)
    times = (0.005, 0.02)
    slope = np.sqrt(sum(rad_per_ppm(3.0, t) ** 2 for t in times))
    trusted = np.full(mask.shape, 100 * slope, np.float32)
    known = {"b0_tesla": 3.0, "field_ppm": field, "reliability": trusted, "echo_times_s": times}
    assert guard.outside(card, mask, inside, **known) == []
    assert guard.outside(card, mask, inside) == []
    for change, grid, said in (
        ({"b0_tesla": 1.5, "reliability": None}, inside, "field strength 1.5 T"),
        ({"field_ppm": 3 * field}, inside, "field -0.269 to 0.269 ppm"),
        ({"reliability": trusted / 10}, inside, "signal-to-noise ratio 10 "),
        ({}, Grid(mask.shape, (1, 1, 3)), "voxel size 1 to 3 mm"),
        ({}, Grid(mask.shape, b0_dir=(1, 0, 1)), "angle of B0 to z, 45 degrees"),
    ):
        (found,) = guard.outside(card, mask, grid, **{**known, **change})
        assert said in found
    assert guard.outside_chi(card, field, mask) == []
    assert "susceptibility" in guard.outside_chi(card, 10 * field, mask)[0]
