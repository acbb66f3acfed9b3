"""Scan: one place where a scan is validated, with a message for each way to get it wrong."""

import numpy as np
import pytest

from qsm_runtime.errors import InputError, MetadataError, ShapeError
from qsm_runtime.grid import Grid
from qsm_runtime.scan import Scan

GRID = Grid((4, 5, 6))
TIMES = (0.005, 0.010)


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (2, *GRID.shape)
    return rng.uniform(0.5, 1, shape).astype(np.float32), rng.uniform(-np.pi, np.pi, shape).astype(np.float32)


def test_a_good_scan_is_kept_as_it_is(images):
    scan = Scan(*images, TIMES, 3, GRID)
    np.testing.assert_array_equal(scan.magnitude, images[0])
    np.testing.assert_array_equal(scan.phase_rad, images[1])
    assert scan.echo_times_s == TIMES
    assert scan.n_echoes == 2
    assert scan.n_not_finite == 0
    assert type(scan.b0_tesla) is float


def test_one_echo_may_be_a_volume(images):
    scan = Scan(images[0][0], images[1][0], 0.005, 3, GRID)
    assert scan.magnitude.shape == (1, *GRID.shape)
    assert scan.echo_times_s == (0.005,)


def test_other_dtypes_and_strides_become_contiguous_float32(images):
    fortran = [np.asfortranarray(a.astype(np.float64)) for a in images]
    scan = Scan(*fortran, TIMES, 3, GRID)
    for array in (scan.magnitude, scan.phase_rad):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(scan.phase_rad, images[1])


def test_voxels_not_finite_in_any_echo_are_zeroed_and_counted(images):
    magnitude, phase_rad = images
    phase_rad[1, 0, 0, 0] = np.nan
    magnitude[0, 1, 1, 1] = np.inf
    kept = phase_rad.copy()
    scan = Scan(magnitude, phase_rad, TIMES, 3, GRID)
    assert scan.n_not_finite == 2
    assert not scan.finite[0, 0, 0]
    assert not scan.finite[1, 1, 1]
    assert scan.magnitude[:, 0, 0, 0].tolist() == [0, 0]
    assert scan.phase_rad[:, 1, 1, 1].tolist() == [0, 0]
    np.testing.assert_array_equal(phase_rad, kept)  # the input is not written


def test_nothing_finite_is_refused(images):
    images[1][1] = np.nan
    with pytest.raises(InputError, match="no voxel is finite"):
        Scan(*images, TIMES, 3, GRID)


def test_shapes_that_differ(images):
    with pytest.raises(ShapeError, match="differ in shape"):
        Scan(images[0], images[1][:, :3], TIMES, 3, GRID)
    with pytest.raises(ShapeError, match="on a grid of shape"):
        Scan(*images, TIMES, 3, Grid((4, 5, 7)))
    with pytest.raises(ShapeError, match="images must be"):
        Scan(images[0][0, 0], images[1][0, 0], 0.005, 3, GRID)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0.005,), "2 echoes but 1 echo times"),
        ((5.0, 10.0), "in ms by mistake"),
        ((0.0, 0.01), "seconds between 0 and 1"),
        ((-0.005, 0.01), "seconds between 0 and 1"),
        ((np.nan, 0.01), "seconds between 0 and 1"),
        ((0.01, 0.005), "must increase"),
        ((0.01, 0.01), "must increase"),
    ],
)
def test_bad_echo_times(images, times, message):
    with pytest.raises(MetadataError, match=message):
        Scan(*images, times, 3, GRID)


@pytest.mark.parametrize("b0_tesla", [0, -3, np.nan, np.inf, 123.2])
def test_bad_field_strength(images, b0_tesla):
    with pytest.raises(MetadataError, match="field strength"):
        Scan(*images, TIMES, b0_tesla, GRID)


def test_unscaled_phase_is_refused(images):
    with pytest.raises(MetadataError, match="give its scaling"):
        Scan(images[0], images[1] * 1000, TIMES, 3, GRID)


def test_phase_may_touch_pi_but_for_rounding(images):
    images[1][0, 0, 0, 0] = np.pi + 0.005
    assert Scan(*images, TIMES, 3, GRID).phase_rad[0, 0, 0, 0] > np.pi


def test_constant_phase_is_refused(images):
    images[1][:] = 0.3
    with pytest.raises(InputError, match="constant"):
        Scan(*images, TIMES, 3, GRID)


def test_constant_phase_with_holes_is_refused_too(images):
    images[1][:] = 0.3
    images[1][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="constant"):
        Scan(*images, TIMES, 3, GRID)


def test_magnitude_without_signal_or_negative_is_refused(images):
    with pytest.raises(InputError, match="magnitude"):
        Scan(images[0] * 0, images[1], TIMES, 3, GRID)
    with pytest.raises(InputError, match="magnitude"):
        Scan(images[0] - 0.7, images[1], TIMES, 3, GRID)


@pytest.mark.filterwarnings("error")
def test_complex_images_are_refused(images):
    with pytest.raises(InputError, match="complex"):
        Scan(images[0] * np.exp(1j * images[1]), images[1], TIMES, 3, GRID)
