"""Masks of objects whose extent is known: balls, shells and a head with scalp, skull, brain and neck."""

import numpy as np
import pytest

from qsm_runtime import mask
from qsm_runtime.errors import QsmWarning, ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.signal import block_mean, combine_magnitude, exceeds, phase_quality

CLASSICAL = [name for name in mask.METHODS if name != "network"]  # a network must be named: tests/networks runs it


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def distance(grid, centre_mm, scale=(1.0, 1.0, 1.0)):
    x, y, z = (
        ((np.arange(n) + 0.5) * v - c) / s
        for n, v, c, s in zip(grid.shape, grid.voxel_mm, centre_mm, scale, strict=True)
    )
    return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


def acquire(signal, phase, echoes=2, noise=0.02, seed=0):
    """Magnitude and wrapped phase of `echoes` echoes; the later ones are weaker and turned further."""
    rng = np.random.default_rng(seed)
    s = np.stack([signal * 0.8**e * np.exp(1j * phase * (e + 1)) for e in range(echoes)])
    s = s + noise * (rng.standard_normal(s.shape) + 1j * rng.standard_normal(s.shape))
    return np.abs(s).astype(np.float32), np.angle(s).astype(np.float32)


def head(grid, fluid=0.6, scalp=1.5):
    """Signal and brain of a head: scalp, dark skull, fluid rim, ventricle, one vein, neck muscle on a thin stem."""
    size = np.array(grid.shape) * grid.voxel_mm
    centre = size * (0.5, 0.5, 0.56)
    r = distance(grid, centre, (68, 82, 64))
    signal = np.where(r < 1.26, scalp, 0.0)
    signal[r < 1.17] = 0.05
    brain = r < 1
    signal[brain] = fluid
    signal[r < 0.95] = 1.0
    signal[distance(grid, centre, (12, 25, 10)) < 1] = fluid
    signal[distance(grid, np.add(centre, (30, 0, 10)), (2.5, 40, 2.5)) < 1] = 0.02
    below = np.broadcast_to((np.arange(grid.shape[2]) * grid.voxel_mm[2] < 0.14 * size[2]), grid.shape)
    across = distance(grid, (centre[0], centre[1], 0), (1, 1, 1e6))
    signal[below & (across < 55) & (r > 1.17)] = 0.8
    stem = (across < 9) & (np.arange(grid.shape[2]) * grid.voxel_mm[2] < centre[2] - 40) & ~brain
    signal[stem] = 0.9
    return signal, brain


def smooth_phase(grid):
    x, y, z = (np.linspace(-1, 1, n) for n in grid.shape)
    return 2.0 * x[:, None, None] + 1.5 * y[:, None] ** 2 + 1.0 * z


@pytest.mark.parametrize("method", ["threshold", "quality"])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.8, 1.2, 2.0)])
def test_ball_is_found_with_its_void_filled_and_a_speck_left_out(method, voxel_mm):
    grid = Grid((48, 40, 36), voxel_mm)
    centre = np.array(grid.shape) * voxel_mm / 2
    r = distance(grid, centre)
    ball = r < 13
    signal = np.where(ball & (distance(grid, np.add(centre, (2, 1, 0))) > 3), 1.0, 0.0)
    signal[2:4, 2:4, 2:4] = 1.0
    found = mask.METHODS[method](*acquire(signal, smooth_phase(grid)), grid)
    assert found.dtype == np.bool_
    assert dice(found, ball) > (0.99 if method == "threshold" else 0.95)
    assert not found[2:4, 2:4, 2:4].any()
    assert found[r < 10].all()


def test_erosion_is_in_mm():
    grid = Grid((48, 40, 30), (0.8, 1.0, 1.5))
    r = distance(grid, np.array(grid.shape) * grid.voxel_mm / 2)
    magnitude, phase = acquire(np.where(r < 14, 1.0, 0.0), smooth_phase(grid))
    found = mask.threshold(magnitude, phase, grid, erode_mm=4.0)
    assert found[r < 9].all()
    assert not found[r > 11.0].any()


def test_quality_leaves_out_signal_without_trustworthy_phase():
    grid = Grid((40, 40, 40))
    r = distance(grid, (20, 20, 20))
    phase = smooth_phase(grid) + np.where(r > 12, np.random.default_rng(3).uniform(-np.pi, np.pi, grid.shape), 0)
    magnitude, phase = acquire(np.where(r < 17, 1.0, 0.0), phase)
    found = mask.quality(magnitude, phase, grid)
    assert dice(found, r < 12) > 0.9
    assert mask.threshold(magnitude, phase, grid)[r < 16.5].all()


@pytest.mark.parametrize(
    ("voxel_mm", "size_mm"),
    [((3.0, 3.0, 3.0), (195, 219, 195)), ((2.0, 2.0, 5.0), (184, 216, 190)), ((2.0, 2.0, 2.0), (184, 216, 60))],
    ids=["3mm", "thick slices", "slab"],
)
def test_brain_is_found_in_a_head(voxel_mm, size_mm):
    grid = Grid(tuple(round(s / v) for s, v in zip(size_mm, voxel_mm, strict=True)), voxel_mm)
    signal, truth = head(Grid(grid.shape, voxel_mm)) if size_mm[2] > 100 else slab_of_head(grid)
    magnitude, phase = acquire(signal, smooth_phase(grid))
    found = mask.brain(magnitude, phase, grid)
    assert dice(found, truth) > 0.96
    assert np.count_nonzero(found & ~truth) < 0.04 * np.count_nonzero(truth)


def slab_of_head(grid):
    whole = Grid((grid.shape[0], grid.shape[1], 95), grid.voxel_mm)
    signal, truth = head(whole)
    first = 40
    return signal[:, :, first : first + grid.shape[2]], truth[:, :, first : first + grid.shape[2]]


def test_brain_follows_flips_and_permutations_of_the_axes():
    grid = Grid((62, 72, 64), (3.0, 3.0, 3.0))
    signal, _ = head(grid)
    magnitude, phase = acquire(signal, smooth_phase(grid))
    found = mask.brain(magnitude, phase, grid)
    turned = mask.brain(
        np.ascontiguousarray(magnitude.transpose(0, 3, 1, 2)[:, ::-1]),
        np.ascontiguousarray(phase.transpose(0, 3, 1, 2)[:, ::-1]),
        Grid((64, 62, 72), (3.0, 3.0, 3.0)),
    )
    assert dice(turned[::-1].transpose(1, 2, 0), found) > 0.985


def test_brain_does_not_depend_on_the_unit_of_the_magnitude():
    grid = Grid((62, 72, 64), (3.0, 3.0, 3.0))
    magnitude, phase = acquire(head(grid)[0], smooth_phase(grid))
    np.testing.assert_array_equal(
        mask.brain(magnitude, phase, grid), mask.brain(1024 * magnitude, phase, grid), err_msg="unit"
    )


def test_where_there_is_no_brain_the_quality_mask_is_given_with_a_warning():
    grid = Grid((80, 60, 20), (4.0, 4.0, 4.0))
    torso = distance(grid, (160, 120, 40), (150, 105, 1e6)) < 1
    magnitude, phase = acquire(torso * 1.0, smooth_phase(grid))
    with pytest.warns(QsmWarning, match="no brain"):
        found = mask.brain(magnitude, phase, grid)
    np.testing.assert_array_equal(found, mask.quality(magnitude, phase, grid))


def test_single_slice_and_single_echo():
    grid = Grid((64, 64, 1), (3.0, 3.0, 3.0))
    r = distance(grid, (96, 96, 1.5))
    magnitude, phase = acquire(np.where(r < 70, 1.0, 0.0), smooth_phase(grid), echoes=1)
    assert dice(mask.threshold(magnitude, phase, grid), r < 70) > 0.97
    assert dice(mask.quality(magnitude, phase, grid), r < 70) > 0.97


@pytest.mark.parametrize("method", CLASSICAL)
def test_nan_in_magnitude_and_phase_is_left_out_or_filled(method):
    grid = Grid((40, 40, 40), (4.0, 4.0, 4.0))
    signal = np.where(distance(grid, (80, 80, 80)) < 60, 1.0, 0.0)
    magnitude, phase = acquire(signal, smooth_phase(grid))
    magnitude[0, 2, 2, 2] = phase[1, 20, 20, 20] = np.nan
    found = mask.METHODS[method](magnitude, phase, grid)
    assert dice(found, signal > 0) > 0.9
    assert not found[2, 2, 2]


@pytest.mark.parametrize("method", CLASSICAL)
def test_errors_name_the_field_and_the_remedy(method):
    grid = Grid((8, 9, 10))
    draw = mask.METHODS[method]
    zero = np.zeros((2, *grid.shape), np.float32)
    one = zero + 1
    with pytest.raises(ReconstructionError, match="--mask"):
        draw(zero, zero, grid)
    with pytest.raises(ShapeError, match="magnitude"):
        draw(one[:, :-1], one, grid)
    with pytest.raises(UsageError, match="fraction"):
        draw(one, zero, grid, fraction=1.5)
    with pytest.raises(UsageError, match="erode_mm"):
        mask.threshold(one, zero, grid, erode_mm=-1.0)


def test_phase_quality_is_one_on_a_wrapped_ramp_and_near_zero_on_noise():
    x = np.arange(30, dtype=np.float32)
    ramp = np.angle(np.exp(1j * (1.9 * x[:, None, None] - 2.8 * x[:, None] + 0.3 * x))).astype(np.float32)
    everywhere = np.ones(ramp.shape, bool)
    straight = phase_quality(ramp[None], np.ones((1, *ramp.shape), np.float32), everywhere)
    np.testing.assert_allclose(straight, 1, atol=1e-5)
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, (4, *ramp.shape)).astype(np.float32)
    # without clipping at 0 and the unknown edges the mean would be 0: |g| has the mean pi / 2
    assert phase_quality(noise, np.ones_like(noise), everywhere).mean() < 0.2
    assert not phase_quality(ramp[None], np.ones((1, *ramp.shape), np.float32), ~everywhere).any()


def test_block_means_combination_and_comparison_against_numpy():
    rng = np.random.default_rng(1)
    magnitude = rng.random((3, 8, 9, 7)).astype(np.float32)
    combined = combine_magnitude(magnitude)
    np.testing.assert_allclose(combined, np.sqrt((magnitude.astype(float) ** 2).sum(axis=0)), rtol=1e-6)
    blocks = block_mean(combined, (2, 3, 4))
    assert blocks.shape == (4, 3, 2)
    np.testing.assert_allclose(blocks[1, 2, 0], combined[2:4, 6:9, :4].mean(), rtol=1e-6)
    np.testing.assert_allclose(blocks[3, 0, 1], combined[6:8, :3, 4:].mean(), rtol=1e-6)
    expanded = np.kron(blocks, np.ones((2, 3, 4), np.float32))[:8, :9, :7]
    np.testing.assert_array_equal(exceeds(combined, blocks, (2, 3, 4)), combined > expanded)


def test_brain_of_the_simulated_head(shared_data):
    nibabel = pytest.importorskip("nibabel")
    folder = shared_data / "head3t"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")

    def load(part):
        files = sorted((folder / "sub-1" / "anat").glob(f"*_part-{part}_MEGRE.nii.gz"))[:2]
        # every other voxel: the anatomy is kept and the test quick
        return np.stack([np.asarray(nibabel.load(f).dataobj)[::2, ::2, ::2].astype(np.float32) for f in files])

    magnitude, phase = load("mag"), load("phase") * np.float32(2 * np.pi / 4096) - np.float32(np.pi)
    truth = folder / "derivatives" / "truth" / "sub-1" / "anat" / "sub-1_mask.nii.gz"
    found = mask.brain(magnitude, phase, Grid(magnitude.shape[1:], (2.0, 2.0, 2.0)))
    assert dice(found, np.asarray(nibabel.load(truth).dataobj)[::2, ::2, ::2] > 0) > 0.93
