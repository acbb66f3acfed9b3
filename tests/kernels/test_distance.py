"""Exact Euclidean distance transform against scipy's."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from qsm_runtime.kernels.distance import distance_inside, distance_outside


def _random_mask(shape, seed, share):
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("shape", [(17, 24, 31), (1, 9, 12), (8, 1, 5), (7, 6, 1), (33, 20, 2)])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0), (3.0, 0.5, 1.0)])
@pytest.mark.parametrize("share", [0.005, 0.5, 0.97])
def test_equals_scipy(shape, voxel_mm, share):
    mask = _random_mask(shape, 1, share)
    mask[0, 0, 0] = True
    expected = distance_transform_edt(np.pad(mask, 1), sampling=voxel_mm)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(distance_inside(mask, voxel_mm), expected, rtol=2e-6, atol=1e-6)
    expected = distance_transform_edt(~mask, sampling=voxel_mm)
    np.testing.assert_allclose(distance_outside(mask, voxel_mm), expected, rtol=2e-6, atol=1e-6)


def test_ball_in_mm():
    voxel_mm = (1.0, 0.8, 2.5)
    axes = [(np.arange(n) - n // 2) * v for n, v in zip((41, 51, 21), voxel_mm, strict=True)]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    point = r == 0
    np.testing.assert_allclose(distance_outside(point, voxel_mm), r, rtol=1e-6)
    eroded = distance_inside(r < 18, voxel_mm) > 6
    assert eroded[r < 12 - 1e-3].all()
    assert not eroded[r > 12 + 2.5].any()  # the first voxel centre outside lies up to one voxel beyond the rim


def test_full_and_empty_masks():
    full = np.ones((5, 6, 7), bool)
    inside = distance_inside(full, (1.0, 1.0, 2.0))
    assert inside[0, 0, 0] == 1
    assert inside[2, 2, 3] == 3  # the array's outside is outside the mask
    assert not distance_inside(~full, (1.0, 1.0, 1.0)).any()
    assert (distance_outside(~full, (1.0, 1.0, 1.0)) >= 1e8).all()


def test_mask_is_kept_and_any_layout_taken():
    mask = _random_mask((9, 10, 11), 3, 0.8)
    before = mask.copy()
    view = distance_inside(mask.transpose(2, 1, 0), (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(view, distance_inside(mask, (3.0, 2.0, 1.0)).transpose(2, 1, 0))


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)])
@pytest.mark.parametrize("limit_mm", [0.5, 3.0, 8.0])
def test_up_to_a_limit(voxel_mm, limit_mm):
    """The same as without one where distances are within it, longer than it elsewhere."""
    mask = np.ones((30, 26, 22), bool)
    mask[_random_mask(mask.shape, 2, 0.0005)] = False
    mask[12:15, 3:9, 7] = False
    for distance, seeds in ((distance_inside, mask), (distance_outside, ~mask)):
        full, some = distance(seeds, voxel_mm), distance(seeds, voxel_mm, limit_mm)
        near = full <= limit_mm
        assert near.any()
        assert not near.all()
        np.testing.assert_allclose(some[near], full[near], rtol=1e-6)
        assert (some[~near] > limit_mm).all()
