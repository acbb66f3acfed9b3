"""In-painting against functions that are harmonic, or that the fill must not touch."""

import numpy as np

from qsm_runtime.kernels.inpaint import inpaint

SHAPE = (14, 17, 13)


def axes(voxel_mm):
    return np.meshgrid(*(np.arange(n) * v for n, v in zip(SHAPE, voxel_mm, strict=True)), indexing="ij")


def test_a_hole_in_a_harmonic_field_is_filled_exactly() -> None:
    voxel_mm = (1.0, 0.7, 2.0)
    x, y, z = axes(voxel_mm)
    values = (0.3 * x - 0.2 * y + 0.01 * (x * x - y * y) + 0.05 * x * z + 1.0).astype(np.float32)
    unknown = np.zeros(SHAPE, bool)
    unknown[4:9, 5:11, 3:8] = True
    spoiled = np.where(unknown, np.float32(1e6), values)
    filled = inpaint(spoiled, ~unknown, unknown, voxel_mm)
    np.testing.assert_allclose(filled, values, atol=5e-3)
    assert np.array_equal(filled[~unknown], values[~unknown])


def test_outside_does_not_count() -> None:
    values = np.full(SHAPE, 2.0, np.float32)
    known = np.zeros(SHAPE, bool)
    known[:6] = True
    unknown = np.zeros(SHAPE, bool)
    unknown[6:9] = True
    values[9:] = 1e5
    filled = inpaint(values, known, unknown, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(filled[6:9], 2.0, atol=1e-3)
    assert not filled[9:].any()


def test_voxels_nothing_leads_to_become_zero_and_none_is_no_work() -> None:
    values = np.ones(SHAPE, np.float32)
    known = np.zeros(SHAPE, bool)
    known[0, 0, 0] = True
    unknown = np.zeros(SHAPE, bool)
    unknown[8, 8, 8] = True
    filled = inpaint(values, known, unknown, (1.0, 1.0, 1.0))
    assert filled[8, 8, 8] == 0
    assert filled[0, 0, 0] == 1
    assert np.array_equal(inpaint(values, np.ones(SHAPE, bool), np.zeros(SHAPE, bool), (1.0, 1.0, 1.0)), values)
