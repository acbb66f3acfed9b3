"""ROMEO: congruence, truth on noisy ramps and dipole fields, and every awkward shape of mask."""

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import threads
from qsm_runtime.unwrap.edges import phase_edges, wrapped
from qsm_runtime.unwrap.region_growing import grow
from qsm_runtime.unwrap.romeo import quality_map, romeo, unwrap_volume

TURN = 2 * np.pi


def wrap(phase):
    return np.angle(np.exp(1j * np.asarray(phase, float))).astype(np.float32)


def ball(n, radius=None):
    axes = np.ogrid[:n, :n, :n]
    return sum((a - (n - 1) / 2) ** 2 for a in axes) <= (radius or n / 2 - 1) ** 2


def ramp(shape, slope=(0.7, -0.4, 0.3)):
    return sum(s * g for s, g in zip(slope, np.mgrid[tuple(slice(n) for n in shape)], strict=True))


def dipole_phase(n, radius, peak_rad):
    """Phase around a magnetised sphere, and flat within: many turns at its poles, where 1/r^3 is steepest."""
    x, y, z = (np.mgrid[:n, :n, :n] - (n - 1) / 2).astype(float)
    r2 = x * x + y * y + z * z
    return np.where(r2 > radius**2, peak_rad * radius**3 * (3 * z * z / r2 - 1) / 2 / np.maximum(r2, 1) ** 1.5, 0)


def turns_off(unwrapped, truth, mask):
    """Whole turns between result and truth, less the most frequent one."""
    k = np.rint((unwrapped - truth)[mask] / TURN).astype(int)
    values, counts = np.unique(k, return_counts=True)
    return k - values[counts.argmax()]


def assert_congruent(unwrapped, phase, mask):
    k = (unwrapped - phase)[mask].astype(float) / TURN
    np.testing.assert_allclose(k, np.rint(k), atol=1e-4)
    assert not unwrapped[~mask].any()


def test_noisy_ramp_is_recovered_and_congruent():
    truth = ramp((30, 33, 28)) + 0.3 * np.random.default_rng(0).standard_normal((30, 33, 28))
    mask = np.ones(truth.shape, bool)
    unwrapped = unwrap_volume(wrap(truth), mask)
    assert unwrapped.dtype == np.float32
    assert_congruent(unwrapped, wrap(truth), mask)
    assert not turns_off(unwrapped, truth, mask).any()
    assert np.ptp(unwrapped) > 4 * TURN


def test_dipole_field_of_many_turns():
    truth = dipole_phase(48, 10, 26.0)
    mask = ball(48) & ~ball(48, 10.6)
    assert np.ptp(truth[mask]) > 5 * TURN
    unwrapped = unwrap_volume(wrap(truth), mask)
    assert_congruent(unwrapped, wrap(truth), mask)
    assert not turns_off(unwrapped, truth, mask).any()


def test_agrees_with_an_independent_unwrapper():
    restoration = pytest.importorskip("skimage.restoration")
    rng = np.random.default_rng(1)
    truth = dipole_phase(32, 7, 14.0) + ramp((32, 32, 32)) + 0.2 * rng.standard_normal((32, 32, 32))
    mask = ball(32) & ~ball(32, 7.8)
    phase = wrap(truth)
    other = restoration.unwrap_phase(np.ma.array(phase, mask=~mask), rng=0).filled(0)
    assert not turns_off(unwrap_volume(phase, mask), other, mask).any()


def test_weights_lead_round_noise():
    """A slab without signal splits the field of view but for a bridge; only the weights find the way round."""
    rng = np.random.default_rng(2)
    truth = ramp((40, 24, 24), (1.1, 0.2, 0.1))
    noise = np.zeros(truth.shape, bool)
    noise[18:22, :18] = True
    phase = wrap(np.where(noise, rng.uniform(-np.pi, np.pi, truth.shape), truth))
    magnitude = np.where(noise, 0.01 * rng.random(truth.shape), 1).astype(np.float32)
    mask = np.ones(truth.shape, bool)
    off = turns_off(unwrap_volume(phase, mask, magnitude=magnitude), truth, mask)
    assert not off[~noise.reshape(-1)].any()


def test_parts_are_each_consistent_and_none_stays_wrapped():
    truth = ramp((36, 20, 20), (0.9, 0.5, 0))
    mask = np.zeros(truth.shape, bool)
    mask[1:10], mask[12:22, 2:18], mask[25:, :, 3:9] = True, True, True
    unwrapped = unwrap_volume(wrap(truth), mask)
    for part in (slice(1, 10), slice(12, 22), slice(25, None)):
        here = np.zeros(mask.shape, bool)
        here[part] = mask[part]
        assert not turns_off(unwrapped, truth, here).any()
        added = np.rint((unwrapped - wrap(truth))[here] / TURN)
        assert added.any()
        assert np.median(added) == 0


@pytest.mark.parametrize("shape", [(24, 20, 1), (1, 24, 20), (24, 1, 20), (40, 1, 1), (2, 2, 2), (3, 3, 3)])
def test_thin_volumes(shape):
    truth = ramp(shape)
    mask = np.ones(shape, bool)
    assert not turns_off(unwrap_volume(wrap(truth), mask), truth, mask).any()


def test_single_voxels_keep_their_phase():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = mask[4, 4, 4] = mask[0, 0, 0] = True
    phase = np.full(mask.shape, 2.5, np.float32)
    np.testing.assert_array_equal(unwrap_volume(phase, mask), np.where(mask, phase, 0))


def test_not_a_number_and_holes_are_passed_around():
    truth = ramp((24, 24, 24))
    phase, mask = wrap(truth), ball(24)
    phase[10:13, 10, 5:20] = np.nan
    magnitude = np.ones(phase.shape, np.float32)
    magnitude[4, 12, 12] = np.nan
    mask[14:17, 12:15, 9:12] = False
    bad = mask & np.isnan(phase)
    unwrapped = unwrap_volume(phase, mask, magnitude=magnitude)
    assert np.isnan(unwrapped[bad]).all()
    assert np.isfinite(unwrapped[~bad]).all()
    assert not turns_off(unwrapped, truth, mask & ~bad).any()


def test_voxels_at_exactly_pi():
    pi = np.float32(np.pi)
    phase = np.where(np.indices((12, 12, 12)).sum(0) % 2, pi, -pi).astype(np.float32)
    unwrapped = unwrap_volume(phase, np.ones(phase.shape, bool))
    assert np.ptp(unwrapped) < 1e-5
    assert abs(unwrapped).min() > 3


def test_borders_of_the_array_and_of_the_mask():
    truth = dipole_phase(20, 4, 8.0) + ramp((20, 20, 20), (0.5, 0.5, 0.5))
    for mask in (np.ones(truth.shape, bool), ball(20, 9.9), ~ball(20, 8)):
        mask &= ~ball(20, 4.5)
        assert not turns_off(unwrap_volume(wrap(truth), mask), truth, mask).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_input_gives_flipped_output(axis):
    rng = np.random.default_rng(3)
    truth = dipole_phase(24, 5, 9.0) + 0.25 * rng.standard_normal((24, 24, 24))
    mask = ball(24) & ~ball(24, 5.6)
    straight = unwrap_volume(wrap(truth), mask)
    flipped = np.flip(unwrap_volume(np.flip(wrap(truth), axis), np.flip(mask, axis)), axis)
    assert not turns_off(straight, flipped, mask).any()


def test_same_input_same_output_and_inputs_are_kept():
    phase = wrap(np.random.default_rng(4).normal(0, 1.2, (20, 20, 20)) + ramp((20, 20, 20)))
    before, mask = phase.copy(), ball(20)
    first = unwrap_volume(phase, mask)
    np.testing.assert_array_equal(first, unwrap_volume(phase, mask))
    np.testing.assert_array_equal(phase, before)


@pytest.mark.parametrize("mode", ["template", "individual"])
def test_same_result_on_any_number_of_threads(mode):
    truth, mask, grid = four_echoes(noise=0.4)
    results = []
    try:
        for count in (1, threads.AVAILABLE):
            threads.set_threads(count)
            results.append(romeo(wrap(truth), mask, grid, echo_times_s=TIMES, mode=mode))
    finally:
        threads.set_threads(None)
    np.testing.assert_array_equal(*results)


def test_one_bucket_for_trusted_edges_changes_nothing():
    rng = np.random.default_rng(8)
    truth = dipole_phase(32, 6, 16.0) + 0.3 * rng.standard_normal((32, 32, 32))
    mask = ball(32) & ~ball(32, 6.6)
    edges = phase_edges(wrap(truth), mask)
    assert edges.histogram[:65].sum() > 0.1 * edges.histogram.sum()
    strict = edges._replace(words=edges.words.copy(), trusted=1)
    np.testing.assert_array_equal(grow(edges), grow(strict))


def test_phase_out_of_range_is_wrapped_first():
    truth = ramp((20, 20, 20))
    mask = np.ones(truth.shape, bool)
    assert not turns_off(unwrap_volume((truth + 40).astype(np.float32), mask), truth, mask).any()
    np.testing.assert_allclose(wrapped((truth + 40).astype(np.float32)), wrap(truth + 40), atol=2e-5)


def test_edge_bins_follow_the_paper():
    """The edge words against the factors written out in float64."""
    rng = np.random.default_rng(5)
    shape = (5, 6, 7)
    phase, second = (rng.uniform(-3, 3, shape).astype(np.float32) * s for s in (0.25, 0.6))
    magnitude = rng.uniform(0.2, 1, shape).astype(np.float32)
    words = phase_edges(phase, np.ones(shape, bool), magnitude, second, 0.4).words[42:].reshape(shape)

    def g(x):
        return np.angle(np.exp(1j * x))

    for axis in range(3):
        p, p2, m = (np.moveaxis(a.astype(float), axis, 0) for a in (phase, second, magnitude))
        q1 = 1 - abs(g(p[:-1] - p[1:])) / np.pi
        q2 = np.maximum(0, 1 - abs(g(p[:-1] - p[1:]) - 0.4 * g(p2[:-1] - p2[1:])))
        bend = np.maximum(0, 1 - abs(g(p[:-2] - 2 * p[1:-1] + p[2:])) / 2)
        q3 = np.full(q1.shape, 0.9)
        q3[1:-1] = bend[:-1] * bend[1:]
        q4 = (np.minimum(m[:-1], m[1:]) / np.maximum(m[:-1], m[1:])) ** 2
        w = np.prod([0.1 + 0.9 * q for q in (q1, q2, q3, q4)], axis=0)
        expected = np.moveaxis(np.maximum(1, 255 * (1 - w)), 0, axis)
        bins = (words >> (8 * axis)) & 255
        inner = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        assert np.abs(bins[inner] - expected).max() <= 0.51
        last = tuple(slice(-1, None) if a == axis else slice(None) for a in range(3))
        assert not bins[last].any()


def test_quality_tells_signal_from_noise():
    rng = np.random.default_rng(6)
    truth = ramp((24, 24, 24), (0.2, 0.1, 0.1)) + 0.03 * rng.standard_normal((24, 24, 24))
    noise = ~ball(24, 8)
    phase = wrap(np.where(noise, rng.uniform(-np.pi, np.pi, truth.shape), truth))
    phase[0, 0, 0] = np.nan
    quality = quality_map(phase)
    assert quality.dtype == np.float32
    assert quality[0, 0, 0] == 0
    assert quality.min() >= 0
    assert quality.max() <= 1
    assert quality[ball(24, 6)].min() > 0.7 > 0.5 > quality[noise].mean()


TIMES = (0.004, 0.0091, 0.0163, 0.0247)  # no multiple of one another, no even spacing


def four_echoes(offset=0.0, noise=0.05, n=28):
    rng = np.random.default_rng(7)
    hz = 60 * dipole_phase(n, 5, 1.0) + ramp((n, n, n), (2.0, 1.0, -1.5))
    truth = np.stack([TURN * hz * t for t in TIMES]) + offset
    truth += noise * rng.standard_normal(truth.shape)
    return truth, ball(n) & ~ball(n, 5.6), Grid((n, n, n))


@pytest.mark.parametrize("template_echo", [0, 1, 3])
def test_template_mode_with_uneven_echo_times_is_exact(template_echo):
    truth, mask, grid = four_echoes()
    magnitude = np.ones(truth.shape, np.float32)
    unwrapped = romeo(wrap(truth), mask, grid, magnitude=magnitude, echo_times_s=TIMES, template_echo=template_echo)
    np.testing.assert_allclose(unwrapped[:, mask], truth[:, mask], atol=1e-4)
    assert not unwrapped[:, ~mask].any()


def test_template_turn_is_settled_by_the_other_echoes():
    truth, mask, grid = four_echoes()
    hz_shift = 1.2 / TIMES[0]  # every voxel of the first echo lies a turn or more away from zero
    truth += np.array([TURN * hz_shift * t for t in TIMES])[:, None, None, None]
    unwrapped = romeo(wrap(truth), mask, grid, echo_times_s=TIMES)
    np.testing.assert_allclose(unwrapped[:, mask], truth[:, mask], atol=1e-4)


@pytest.mark.parametrize("mode", ["template", "individual"])
@pytest.mark.parametrize("offset", [0.9, "smooth"])
def test_each_echo_is_consistent_though_an_offset_is_left_in(mode, offset):
    n = 28
    smooth = 4 * np.sin(np.pi * np.mgrid[:n, :n, :n][1] / n) if offset == "smooth" else offset
    truth, mask, grid = four_echoes(smooth)
    unwrapped = romeo(wrap(truth), mask, grid, echo_times_s=TIMES, mode=mode)
    for e in range(len(TIMES)):
        assert not turns_off(unwrapped[e], truth[e], mask).any()


def test_individual_mode_agrees_with_template_mode():
    truth, mask, grid = four_echoes()
    a, b = (romeo(wrap(truth), mask, grid, echo_times_s=TIMES, mode=mode) for mode in ("template", "individual"))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_noise_and_a_second_part_in_template_mode():
    truth, mask, grid = four_echoes(noise=0.2)
    mask = mask.copy()
    mask[13:15] = False
    mask[0, 0, 0] = True
    unwrapped = romeo(wrap(truth), mask, grid, echo_times_s=TIMES)
    mask[0, 0, 0] = False
    np.testing.assert_allclose(unwrapped[:, mask], truth[:, mask], atol=1e-4)


def test_not_a_number_in_one_echo():
    truth, mask, grid = four_echoes()
    phase = wrap(truth)
    phase[2, 14, 14, 22] = np.nan
    unwrapped = romeo(phase, mask, grid, echo_times_s=TIMES)
    assert np.isnan(unwrapped[:, 14, 14, 22]).all()
    mask = mask.copy()
    mask[14, 14, 22] = False
    np.testing.assert_allclose(unwrapped[:, mask], truth[:, mask], atol=1e-4)


def test_single_echo_with_or_without_its_axis():
    truth, mask, grid = four_echoes()
    phase = wrap(truth[3])
    with_axis = romeo(phase[None], mask, grid, echo_times_s=(0.02,))
    assert with_axis.shape == (1, *grid.shape)
    np.testing.assert_array_equal(with_axis[0], romeo(phase, mask, grid))
    assert not turns_off(with_axis[0], truth[3], mask).any()


def test_bad_input_is_refused():
    phase, grid = np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4))
    mask = np.ones(grid.shape, bool)
    with pytest.raises(ReconstructionError, match="empty"):
        romeo(phase, ~mask, grid, echo_times_s=(0.01, 0.02))
    with pytest.raises(ShapeError):
        romeo(phase, mask[1:], grid, echo_times_s=(0.01, 0.02))
    with pytest.raises(ShapeError):
        romeo(phase[:, 1:], mask, grid, echo_times_s=(0.01, 0.02))
    with pytest.raises(ShapeError):
        romeo(phase, mask, grid, magnitude=phase[:1], echo_times_s=(0.01, 0.02))
    with pytest.raises(UsageError, match="echo_times_s"):
        romeo(phase, mask, grid)
    with pytest.raises(UsageError, match="mode"):
        romeo(phase, mask, grid, echo_times_s=(0.01, 0.02), mode="spatial")
    with pytest.raises(UsageError, match="template_echo"):
        romeo(phase, mask, grid, echo_times_s=(0.01, 0.02), template_echo=2)
