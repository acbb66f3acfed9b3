"""Slices stand as a radiologist expects them, whatever the order and direction of the array's axes."""

from itertools import permutations, product

import numpy as np
import pytest

from qsm_runtime.report.picture import Row, slices_png
from qsm_runtime.report.slices import Cut, View

AFFINES = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def stored(world: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...], voxel_mm: tuple[float, ...]):
    """A volume in (right, anterior, superior) order as an array with other axes, and its affine."""
    array, affine = world.transpose(order), np.eye(4)
    affine[:3, :3] = 0
    for axis, (from_axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[from_axis, axis] = sign * voxel_mm[from_axis]
        if sign < 0:
            array = np.flip(array, axis)
    return np.ascontiguousarray(array), affine


@pytest.mark.parametrize(("order", "signs"), AFFINES)
def test_patient_sides_are_where_they_belong(order, signs):
    world = np.zeros((9, 11, 7), np.float32)
    world[7, 5, 3], world[4, 9, 3], world[4, 5, 5] = 1, 2, 3  # right, anterior, superior of the middle
    mask, affine = stored(np.ones(world.shape, bool), order, signs, (1.0, 2.0, 3.0))
    array, _ = stored(world, order, signs, (1.0, 2.0, 3.0))
    view = View.of(affine)
    assert view.voxel_mm == (1.0, 2.0, 3.0)
    cut = Cut.through(view, mask)
    axial, coronal, sagittal = cut.planes(array)
    assert axial.shape == (11, 9)
    assert coronal.shape == (7, 9)
    assert sagittal.shape == (7, 11)
    assert axial[5, 1] == 1
    assert coronal[3, 1] == 1
    assert axial[1, 4] == 2
    assert sagittal[3, 1] == 2
    assert coronal[1, 4] == 3
    assert sagittal[1, 5] == 3
    assert cut.sizes_mm == ((22, 9), (21, 9), (21, 22))


def test_an_oblique_affine_takes_the_nearest_axes():
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    assert View.of(affine).axes == (0, 1, 2)


def test_the_box_follows_the_mask_and_an_empty_one_shows_all():
    view, mask = View.of(np.eye(4)), np.zeros((40, 40, 40), bool)
    assert Cut.through(view, mask).planes(np.zeros(mask.shape))[0].shape == (40, 40)
    mask[15:20, 15:25, 15:17] = True
    assert [b.stop - b.start for b in Cut.through(view, mask).box] == [5 + 16, 10 + 16, 2 + 16]


def pixels(png: bytes) -> np.ndarray:
    import io

    from matplotlib.image import imread

    return imread(io.BytesIO(png))[..., :3]


def test_png_shows_the_window_and_leaves_the_outside_dark():
    grid = np.ones((30, 30, 30), np.float32)
    mask = np.zeros(grid.shape, bool)
    mask[8:22, 8:22, 8:22] = True
    bright = pixels(slices_png([Row(grid, "a", "ppm", (0, 1), inside=mask)], np.eye(4), mask))
    dark = pixels(slices_png([Row(-grid, "a", "ppm", (0, 1), inside=mask)], np.eye(4), mask))
    assert bright.shape == dark.shape
    assert bright.mean() > dark.mean() + 0.15
    two = pixels(slices_png([Row(grid, "a"), Row(grid, "b")], np.eye(4), mask, "title\nsecond line", outline=True))
    assert two.shape[0] > 1.8 * bright.shape[0] * 0.9
    assert np.array_equal(
        two, pixels(slices_png([Row(grid, "a"), Row(grid, "b")], np.eye(4), mask, "title\nsecond line", outline=True))
    )
