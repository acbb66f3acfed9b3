"""Morphology in mm against scipy's distance transform, labelling and hole filling."""

import numpy as np
import pytest
from scipy import ndimage

from qsm_runtime.kernels import morphology

VOXELS = [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)]


def blobs(shape=(23, 20, 17), seed=0, level=0.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > level * noise.std()


@pytest.mark.parametrize("voxel_mm", VOXELS)
@pytest.mark.parametrize("radius_mm", [1.0, 2.9])
def test_dilation_and_erosion_are_distances_in_mm(voxel_mm, radius_mm):
    mask = blobs()
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_mm)
    np.testing.assert_array_equal(morphology.dilate(mask, radius_mm, voxel_mm), outside <= radius_mm + 1e-6)
    np.testing.assert_array_equal(morphology.erode(mask, radius_mm, voxel_mm), inside > radius_mm + 1e-6)


def test_edge_of_the_field_of_view_is_no_surface():
    assert morphology.erode(np.ones((5, 4, 3), bool), 2.0, (1.0, 1.0, 1.0)).all()


def test_largest_component_is_face_connected():
    mask = blobs(level=0.6)
    labels, count = ndimage.label(mask)
    assert count > 3
    sizes = np.bincount(labels.ravel())[1:]
    np.testing.assert_array_equal(morphology.largest_component(mask), labels == 1 + int(sizes.argmax()))
    assert not morphology.largest_component(np.zeros((3, 3, 3), bool)).any()


def test_holes_are_what_cannot_reach_the_border():
    mask = blobs(level=-0.8)
    filled = ndimage.binary_fill_holes(mask)
    assert filled.sum() > mask.sum()
    np.testing.assert_array_equal(morphology.fill_holes(mask), filled)


def test_holes_of_a_single_slice_are_filled_in_the_slice():
    mask = np.zeros((9, 9, 1), bool)
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    assert morphology.fill_holes(mask).sum() == 25
