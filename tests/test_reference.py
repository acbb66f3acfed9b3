"""Referencing: the value subtracted, the region it comes from, and refusal instead of a guess."""

import numpy as np
import pytest

from qsm_runtime import reference
from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid

GRID = Grid((60, 64, 50), (2.0, 2.0, 2.5))


def distance(centre_mm, scale):
    x, y, z = (
        ((np.arange(n) + 0.5) * v - c) / s
        for n, v, c, s in zip(GRID.shape, GRID.voxel_mm, centre_mm, scale, strict=True)
    )
    return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


def brain():
    """Mask, ventricles and R2*: two ventricles, fluid around the brain, and a small cyst far from the centre."""
    centre = np.array((60.0, 64.0, 62.5))
    mask = distance(centre, (55, 60, 56)) < 1
    ventricles = (distance(np.add(centre, (-9, 0, 0)), (5, 18, 7)) < 1) | (
        distance(np.add(centre, (9, 0, 0)), (5, 18, 7)) < 1
    )
    r2star = np.where(mask, 20.0, 0.0)
    r2star[mask & (distance(centre, (55, 60, 56)) > 0.93)] = 2.0
    r2star[distance(np.add(centre, (0, 42, 0)), (5, 5, 5)) < 1] = 2.0
    r2star[ventricles] = 2.0
    return mask, ventricles, r2star.astype(np.float32)


def chi_map(mask, ventricles):
    chi = np.random.default_rng(0).normal(0.02, 0.01, mask.shape) + 0.1 * ventricles
    return np.where(mask, chi, 0).astype(np.float32)


def test_none_changes_nothing_but_copies():
    mask, ventricles, _ = brain()
    chi = chi_map(mask, ventricles)
    referenced, value, count = reference.none(chi, mask, GRID)
    np.testing.assert_array_equal(referenced, chi)
    assert referenced is not chi
    assert (value, count) == (0.0, 0)


def test_whole_mask_has_mean_zero_after():
    mask, ventricles, _ = brain()
    chi = chi_map(mask, ventricles)
    before = chi.copy()
    referenced, value, count = reference.whole_mask(chi, mask, GRID)
    np.testing.assert_array_equal(chi, before)
    assert value == pytest.approx(chi[mask].mean(dtype=float), rel=1e-6)
    assert count == mask.sum()
    assert referenced.dtype == np.float32
    assert abs(referenced[mask].mean(dtype=float)) < 1e-7
    assert not referenced[~mask].any()


def test_region_counts_only_inside_the_mask():
    mask, ventricles, _ = brain()
    chi = chi_map(mask, ventricles)
    where = ventricles.copy()
    where[0] = True
    referenced, value, count = reference.region(chi, mask, GRID, region=where)
    assert count == ventricles.sum()
    assert value == pytest.approx(chi[ventricles].mean(dtype=float), rel=1e-6)
    assert abs(referenced[ventricles].mean(dtype=float)) < 1e-7


def test_csf_is_the_ventricles_and_not_the_rim_or_a_cyst():
    mask, ventricles, r2star = brain()
    np.testing.assert_array_equal(reference.csf_region(r2star, mask, GRID), ventricles)
    chi = chi_map(mask, ventricles)
    _, value, count = reference.csf(chi, mask, GRID, r2star_per_s=r2star)
    assert count == ventricles.sum()
    assert value == pytest.approx(chi[ventricles].mean(dtype=float), rel=1e-6)


def test_csf_is_refused_where_there_are_no_ventricles():
    mask, ventricles, r2star = brain()
    r2star[ventricles] = 20.0
    with pytest.raises(ReconstructionError, match="whole_mask"):
        reference.csf_region(r2star, mask, GRID)
    with pytest.raises(ReconstructionError, match="two echoes"):
        reference.csf(chi_map(mask, ventricles), mask, GRID, r2star_per_s=None)


def test_other_errors():
    mask, ventricles, r2star = brain()
    chi = chi_map(mask, ventricles)
    with pytest.raises(ReconstructionError, match="no voxel"):
        reference.region(chi, mask, GRID, region=~mask)
    with pytest.raises(UsageError, match="region"):
        reference.region(chi, mask, GRID, region=None)
    with pytest.raises(ShapeError, match="reference region"):
        reference.region(chi, mask, GRID, region=mask[1:])
    with pytest.raises(ReconstructionError, match="no voxel"):
        reference.whole_mask(chi, np.zeros_like(mask), GRID)
    with pytest.raises(UsageError, match="max_r2star_per_s"):
        reference.csf_region(r2star, mask, GRID, max_r2star_per_s=0.0)


def test_methods_are_the_four():
    assert set(reference.METHODS) == {"none", "whole_mask", "csf", "region"}
