"""MCPC-3D-S on phases made from a known field and known offsets."""

import numpy as np
import pytest

from qsm_runtime.errors import MetadataError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.offset.mcpc3ds import mcpc3ds

SHAPE = (41, 48, 37)


def wrap(a: np.ndarray) -> np.ndarray:
    return a - 2 * np.pi * np.round(a / (2 * np.pi))


def case(te: tuple[float, ...], voxel_mm: tuple[float, float, float], bipolar_rad: float = 0.0, seed: int = 0):
    """Wrapped phase, magnitude, mask, the field's own phase, all with quadratic offsets and little noise."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.8
    rate = 2 * np.pi * (60 * x * y + 45 * z**2 + 30 * np.exp(-((x - 0.3) ** 2 + y**2 + z**2) / 0.02))
    offset = 0.7 + 0.9 * x - 0.8 * y**2 + 0.5 * y * z
    polarity = bipolar_rad * (0.4 + 1.5 * x)
    own = np.stack([rate * t for t in te])
    phase = own + offset + np.stack([polarity if e % 2 else 0 * x for e in range(len(te))])
    phase += rng.normal(scale=0.02, size=phase.shape)
    return wrap(phase).astype(np.float32), np.ones_like(phase, np.float32), mask, own, Grid(SHAPE, voxel_mm)


@pytest.mark.parametrize("te", [(0.004, 0.009, 0.015), (0.005, 0.010), (0.012, 0.017, 0.022, 0.027)])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (1.0, 0.8, 3.0)])
def test_offset_is_removed(te, voxel_mm) -> None:
    phase, magnitude, mask, own, grid = case(te, voxel_mm)
    before = phase.copy()
    out = mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te)
    assert np.array_equal(phase, before)
    assert np.abs(out).max() <= np.pi + 1e-5
    # a whole turn of the Hermitian phase is a constant frequency 1/dTE: the same for every echo
    turns = [
        np.angle(np.exp(1j * (out[0] - own[0]))[mask].mean() * np.exp(2j * np.pi * k * te[0] / (te[1] - te[0])))
        for k in (-1, 0, 1)
    ]
    k = (-1, 0, 1)[int(np.argmin(np.abs(turns)))]
    for e, t in enumerate(te):
        error = wrap(out[e] - own[e] + 2 * np.pi * k * t / (te[1] - te[0]))[mask]
        assert np.abs(np.median(error)) < 0.02
        assert np.std(error) < 0.05


def test_bipolar_readout_has_an_offset_a_polarity() -> None:
    te = (0.004, 0.008, 0.012, 0.016)
    phase, magnitude, mask, own, grid = case(te, (1.0, 1.0, 1.0), bipolar_rad=0.8)
    out = mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te, readout="bipolar")
    for e in range(4):
        assert np.std(wrap(out[e] - own[e])[mask]) < 0.06
    as_monopolar = mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te)
    assert np.std(wrap(as_monopolar[1] - own[1])[mask]) > 0.2


def test_refuses_what_it_cannot_do() -> None:
    te = (0.004, 0.008)
    phase, magnitude, mask, _, grid = case(te, (1.0, 1.0, 1.0))
    with pytest.raises(MetadataError, match="at least 3 echoes"):
        mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te, readout="bipolar")
    with pytest.raises(MetadataError, match="at least 2 echoes"):
        mcpc3ds(phase[:1], mask, grid, magnitude=magnitude[:1], echo_times_s=te[:1])
    with pytest.raises(UsageError, match="smoothing_mm"):
        mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te, smoothing_mm=0)
    with pytest.raises(UsageError, match="readout"):
        mcpc3ds(phase, mask, grid, magnitude=magnitude, echo_times_s=te, readout="both")
