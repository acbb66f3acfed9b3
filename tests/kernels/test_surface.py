"""The deformable surface on objects whose volume is known."""

import numpy as np
import pytest

from qsm_runtime.kernels import surface


@pytest.mark.parametrize("level", [0, 2])
def test_geodesic_sphere_is_a_closed_surface(level):
    vertices, faces, rings = surface.geodesic_sphere(level)
    assert len(vertices) == 10 * 4**level + 2
    assert len(faces) == 20 * 4**level
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1)
    assert ((rings >= 0).sum(axis=1) == 5).sum() == 12
    # each directed edge once, and its reverse once: closed and consistently turned
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, backward = {tuple(e) for e in edges.tolist()}, {tuple(e[::-1]) for e in edges.tolist()}
    assert len(forward) == len(edges)
    assert forward == backward
    # rings follow the faces
    for vertex, ring in enumerate(rings):
        ring = ring[ring >= 0]
        for a, b in zip(ring, np.roll(ring, -1), strict=True):
            assert (vertex, a) in forward
            assert (a, b) in forward
    # the divergence theorem: the volume is positive, so the faces look outwards
    volume = np.einsum("ij,ij->", vertices[faces[:, 0]], np.cross(vertices[faces[:, 1]], vertices[faces[:, 2]])) / 6
    assert 2.5 < volume < 4 * np.pi / 3


def test_enclosed_voxels_have_the_volume_of_the_ball():
    vertices, faces, _ = surface.geodesic_sphere(4)
    voxel_mm = (1.0, 1.4, 0.8)
    centre, radius = np.array([21.3, 20.1, 19.7]), 15.2
    inside = surface.enclosed(centre + radius * vertices, faces, (44, 30, 52), voxel_mm)
    axes = [np.arange(n) * v - c for n, v, c in zip(inside.shape, voxel_mm, centre, strict=True)]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    assert inside[distance < radius - 0.2].all()
    assert not inside[distance > radius].any()


def test_surface_cut_by_the_field_of_view_encloses_what_is_in_it():
    vertices, faces, _ = surface.geodesic_sphere(3)
    inside = surface.enclosed(np.array([5.0, 10.0, -3.0]) + 8.0 * vertices, faces, (20, 20, 20), (1.0, 1.0, 1.0))
    assert inside[5, 10, 0]
    assert inside[5, 10, 4]
    assert not inside[5, 10, 6]


def test_surface_settles_on_the_wall_of_a_ball():
    voxel_mm = (2.0, 2.0, 2.0)
    axis = np.arange(60) * 2.0 - 60
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    # an object of 45 mm, a dark shell of 8 mm, and a bright shell around it
    image = np.where(distance < 45, 1.0, np.where((distance > 53) & (distance < 59), 1.2, 0.0)).astype(np.float32)
    vertices, _, rings = surface.geodesic_sphere(4)
    start = 60 + 20 * vertices
    points = surface.evolve(start, rings, image, voxel_mm, 1.0, (0.0, 0.1), 0.6, 600, 10.0)
    reached = np.linalg.norm(points - 60, axis=1)
    assert reached.min() > 44
    assert reached.max() < 53
    count, share = surface.walled_share(points, image, np.array(voxel_mm), 0.5, 8.0)
    assert count == len(points)
    assert share == 1
    assert surface.walled_share(start, image, np.array(voxel_mm), 0.5, 8.0)[1] == 0
