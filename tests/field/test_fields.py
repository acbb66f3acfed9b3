"""Field methods against the rate that made the phase, and their reliability against repeated noise."""

import warnings

import numpy as np
import pytest

from qsm_runtime.errors import MetadataError, QsmWarning, UsageError
from qsm_runtime.field import METHODS
from qsm_runtime.field.linear import linear, nonlinear
from qsm_runtime.field.weighted import weighted
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.echo_fit import channel_noise
from qsm_runtime.units import rad_per_ppm

SHAPE = (24, 30, 17)
GRID = Grid(SHAPE)
TE = (0.004, 0.009, 0.016, 0.021)
B0 = 3.0


def smooth_field(seed: int = 0) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return 0.3 * x * y - 0.2 * z + 0.1 * np.sin(2 * x + seed)


def signal(total_ppm: np.ndarray, offset: float = 0.0, noise: float = 0.0, seed: int = 1, te=TE):
    """Magnitude and exact-branch phase of a decaying signal with complex noise of one channel's deviation."""
    rng = np.random.default_rng(seed)
    phase = np.stack([rad_per_ppm(B0, t) * total_ppm + offset for t in te])
    magnitude = np.stack([np.full(total_ppm.shape, 100 * np.exp(-t / 0.03)) for t in te])
    s = magnitude + noise * (rng.normal(size=phase.shape) + 1j * rng.normal(size=phase.shape))
    return np.abs(s).astype(np.float32), (phase + np.angle(s)).astype(np.float32)


@pytest.mark.parametrize("name", METHODS)
def test_recovers_the_field(name) -> None:
    truth = smooth_field()
    magnitude, phase = signal(truth, noise=0.5)
    mask = np.ones(SHAPE, bool)
    mask[:3] = False
    total, reliability = METHODS[name](phase, magnitude, TE, B0, mask, GRID)
    assert total.dtype == reliability.dtype == np.float32
    assert not total[~mask].any()
    assert not reliability[~mask].any()
    error = (total - truth)[mask]
    assert np.std(error) < 5e-3
    assert abs(error.mean()) < 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_reliability_is_the_inverse_standard_deviation(name) -> None:
    truth = np.zeros(SHAPE)
    mask = np.ones(SHAPE, bool)
    errors, stated = [], []
    for seed in range(6):
        magnitude, phase = signal(truth, noise=3.0, seed=seed)
        total, reliability = METHODS[name](phase, magnitude, TE, B0, mask, GRID)
        errors.append(total - truth)
        stated.append(1 / reliability)
    ratio = np.sqrt(np.mean(np.square(errors))) / np.sqrt(np.mean(np.square(stated)))
    assert 0.8 < ratio < 1.1  # chi^2 inflation overstates the deviation a little


@pytest.mark.parametrize("fit", [linear, nonlinear])
def test_line_fits_do_not_mind_an_offset(fit) -> None:
    truth = smooth_field()
    magnitude, phase = signal(truth, offset=1.3, noise=0.5)
    total, _ = fit(phase, magnitude, TE, B0, np.ones(SHAPE, bool), GRID)
    assert np.std(total - truth) < 6e-3


def test_branches_of_later_echoes_do_not_matter() -> None:
    truth = smooth_field()
    magnitude, phase = signal(truth, noise=0.5)
    mask = np.ones(SHAPE, bool)
    turned = phase.copy()
    turned[1, ::2] += np.float32(2 * np.pi)
    turned[3, :, ::3] -= np.float32(4 * np.pi)
    a, _ = weighted(phase, magnitude, TE, B0, mask, GRID)
    b, _ = weighted(turned, magnitude, TE, B0, mask, GRID)
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_dephased_late_echoes_lose_their_say() -> None:
    """A steep ramp whose last two echoes carry a wrong phase, as after a sinc's first zero."""
    x = np.arange(SHAPE[0])[:, None, None] * np.ones(SHAPE)
    truth = 0.5 * x
    magnitude, phase = signal(truth, noise=0.2)
    phase[2:] += np.float32(2.5)
    mask = np.ones(SHAPE, bool)
    plain, _ = weighted(phase, magnitude, TE, B0, mask, GRID, dephasing=0.0)
    aware, reliability = weighted(phase, magnitude, TE, B0, mask, GRID)
    assert np.abs(aware - truth).mean() < 0.35 * np.abs(plain - truth).mean()
    flat, at_rest = weighted(*reversed(signal(0 * truth, noise=0.2)), TE, B0, mask, GRID)
    assert np.median(reliability) < 0.2 * np.median(at_rest)
    assert np.abs(flat).max() < 0.02


def test_voxels_without_signal_are_not_reliable() -> None:
    magnitude, phase = signal(smooth_field(), noise=0.5)
    magnitude[:, 5, 5, 5] = 0
    mask = np.ones(SHAPE, bool)
    for method in METHODS.values():
        total, reliability = method(phase, magnitude, TE, B0, mask, GRID)
        assert reliability[5, 5, 5] == 0
        assert total[5, 5, 5] == 0
        assert np.isfinite(total).all()


def test_single_echo_and_bad_options() -> None:
    truth = smooth_field()
    magnitude, phase = signal(truth, noise=0.5, te=TE[2:3])
    mask = np.ones(SHAPE, bool)
    total, _ = weighted(phase, magnitude, TE[2:3], B0, mask, GRID)
    assert np.std(total - truth) < 0.01
    with pytest.raises(MetadataError, match="two echoes"):
        linear(phase, magnitude, TE[2:3], B0, mask, GRID)
    with pytest.raises(UsageError, match="dephasing"):
        weighted(phase, magnitude, TE[2:3], B0, mask, GRID, dephasing=-1.0)
    with pytest.raises(UsageError, match="iterations"):
        nonlinear(phase, magnitude, TE[2:3], B0, mask, GRID, iterations=0)


def test_noise_level_is_measured() -> None:
    magnitude, phase = signal(smooth_field(), noise=2.0)
    level = channel_noise(magnitude[0], phase[0], np.ones(SHAPE, bool))
    assert level == pytest.approx(2.0, rel=0.1)


def test_phases_that_do_not_grow_with_echo_time_are_said() -> None:
    magnitude, phase = signal(smooth_field(), noise=1.0)
    mask = np.ones(SHAPE, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighted(phase, magnitude, TE, B0, mask, GRID)
    with pytest.warns(QsmWarning, match="do not grow with echo time"):
        weighted(phase + np.float32(0.4) * (np.arange(4) % 2)[:, None, None, None], magnitude, TE, B0, mask, GRID)
    with pytest.warns(QsmWarning, match="wrong echo times"):
        weighted(phase, magnitude, (0.004, 0.010, 0.012, 0.021), B0, mask, GRID)
