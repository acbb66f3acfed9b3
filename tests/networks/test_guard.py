"""A network cannot be fed wrongly: units are refused, what it was not trained on is said."""

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


@pytest.fixture(scope="module")
def head():
    truth = simulate_head(Grid((64, 76, 64), (2.6, 2.6, 2.6)), oversample=1).truth
    return truth.local_ppm, truth.total_ppm, truth.mask


def test_ppm_pass_and_other_units_do_not(head) -> None:
    local, total, mask = head
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


def test_phase_is_wrapped_and_in_rad() -> None:
    mask = np.ones((4, 5, 6), bool)
    phase = np.linspace(-np.pi, np.pi, mask.size).astype(np.float32).reshape(mask.shape)
    guard.check_phase(phase, mask)
    for wrong in (1.1 * phase, 4096 / np.pi * phase, phase + np.float32(np.pi)):
        with pytest.raises(InputError, match="other units than rad, or unwrapped"):
            guard.check_phase(wrong, mask)
    phase[0, 0, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        guard.check_phase(phase, mask)
    mask[0, 0, 0] = False
    guard.check_phase(phase, mask)


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
