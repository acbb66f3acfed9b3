"""The conventions of qsm_runtime.grid, one by one, on sources whose field is known in closed form."""

import numpy as np
import pytest
from scipy import fft

from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel, green_kernel
from qsm_runtime.kernels.fft import smooth_size
from qsm_runtime.phantom import cylinder_field_ppm, sphere_field_ppm
from qsm_runtime.units import hz_per_ppm, rad_per_ppm

OBLIQUE = (0.35, -0.45, 0.82)
DIRECTIONS = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, -1), OBLIQUE]
GRIDS = [((40, 40, 40), (1.0, 1.0, 1.0)), ((41, 43, 39), (1.0, 1.0, 1.0)), ((48, 40, 23), (0.8, 1.0, 1.7))]
RADIUS_MM = 7.0


def distances_mm(grid: Grid, centre: tuple[float, float, float]) -> list[np.ndarray]:
    lines = [(np.arange(n) - c) * v for n, c, v in zip(grid.shape, centre, grid.voxel_mm, strict=True)]
    return np.meshgrid(*lines, indexing="ij")


def filled(grid: Grid, distance) -> np.ndarray:
    """Share of each voxel in which `distance` (a function of x, y, z in mm) is positive, from 5^3 points."""
    out = np.zeros(grid.shape, np.float32)
    steps = (np.arange(5) - 2) / 5
    x, y, z = distances_mm(grid, middle(grid))
    for dx in steps:
        for dy in steps:
            for dz in steps:
                shift = np.array((dx, dy, dz)) * grid.voxel_mm
                out += distance(x + shift[0], y + shift[1], z + shift[2]) > 0
    return out / 125


def middle(grid: Grid) -> tuple[float, float, float]:
    """Not quite the middle: nothing here may depend on a source that sits on a voxel."""
    x, y, z = ((n - 1) / 2 + 0.3 for n in grid.shape)
    return x, y, z


def sphere(grid: Grid) -> np.ndarray:
    return filled(grid, lambda x, y, z: RADIUS_MM - np.sqrt(x**2 + y**2 + z**2))


def field_of(chi_ppm: np.ndarray, grid: Grid, kernel=dipole_kernel, pad: int = 2) -> np.ndarray:
    """Field in free space, or periodic with pad=1."""
    shape = tuple(smooth_size(pad * n) for n in grid.shape) if pad > 1 else grid.shape
    filtered = kernel(shape, grid.voxel_mm, grid.b0_dir)
    field = fft.irfftn(fft.rfftn(chi_ppm, shape) * filtered, shape)
    return field[tuple(slice(n) for n in grid.shape)]


def assert_agrees(field: np.ndarray, expected: np.ndarray) -> None:
    """Right in size to 1 %; what the sampled edges of a small source leave is under 6 %."""
    slope = np.vdot(field, expected) / np.vdot(expected, expected)
    assert slope == pytest.approx(1, abs=0.01)
    assert np.linalg.norm(field - expected) < 0.06 * np.linalg.norm(expected)


def world_affine(degrees: tuple[float, float, float], voxel_mm: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    out[:3, :3] *= voxel_mm
    return out


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
@pytest.mark.parametrize(("shape", "voxel_mm"), GRIDS)
def test_sphere(shape, voxel_mm, b0_dir):
    grid = Grid(shape, voxel_mm, b0_dir)
    check_sphere(grid, dipole_kernel)


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), OBLIQUE])
def test_sphere_by_the_spatial_kernel(b0_dir):
    check_sphere(Grid((40, 40, 40), (1, 1, 1), b0_dir), green_kernel)


def check_sphere(grid: Grid, kernel) -> None:
    field = field_of(sphere(grid), grid, kernel)
    expected = sphere_field_ppm(grid, middle(grid), RADIUS_MM, 1.0)
    r = np.sqrt(sum(d**2 for d in distances_mm(grid, middle(grid))))
    step = max(grid.voxel_mm)
    outside = (r > RADIUS_MM + 1.5 * step) & (r < 2.2 * RADIUS_MM)
    assert_agrees(field[outside], expected[outside])
    inside = r < RADIUS_MM - 1.5 * step
    assert abs(field[inside].mean()) < 0.003  # the sphere of Lorentz is taken out
    assert np.abs(field[inside]).max() < 0.08


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("b0_dir", [*DIRECTIONS[:3], OBLIQUE])
def test_infinite_cylinder(axis, b0_dir):
    # through the whole periodic grid, so it has no end; across, its images are eight radii away
    shape, radius_mm = [96, 96, 96], 6.0
    shape[axis] = 8
    grid = Grid((shape[0], shape[1], shape[2]), (1, 1, 1), b0_dir)
    along = np.eye(3)[axis]

    def rod(x, y, z):
        return radius_mm - np.sqrt(sum(d**2 * (1 - a) for d, a in zip((x, y, z), along, strict=True)))

    field = field_of(filled(grid, rod), grid, pad=1)
    expected = cylinder_field_ppm(grid, middle(grid), tuple(along), radius_mm, 1.0)
    rho = np.sqrt(sum(d**2 * (1 - a) for d, a in zip(distances_mm(grid, middle(grid)), along, strict=True)))
    cos2 = float(np.dot(grid.b0_dir, along)) ** 2
    inside = rho < radius_mm - 2
    assert field[inside].mean() == pytest.approx((3 * cos2 - 1) / 6, abs=0.01)
    outside = (rho > radius_mm + 2) & (rho < 2.5 * radius_mm)
    assert np.abs((field - expected)[outside]).max() < 0.025
    np.testing.assert_allclose(field.mean(axis=axis), np.take(field, 0, axis), atol=1e-5)  # the same all along


def test_cylinder_at_the_magic_angle_has_no_field_inside():
    angle = np.arccos(np.sqrt(1 / 3))
    grid = Grid((16, 16, 16), (1, 1, 1), (np.sin(angle), 0, np.cos(angle)))
    field = cylinder_field_ppm(grid, (7.5, 7.5, 7.5), (0, 0, 1), 4.0, 1.0)
    rho2 = sum(d**2 for d in distances_mm(grid, (7.5, 7.5, 7.5))[:2])
    np.testing.assert_allclose(field[rho2 < 15], 0, atol=1e-7)


@pytest.mark.parametrize("chi_ppm", [0.3, -0.3])
@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_sign(chi_ppm, b0_dir):
    """A paramagnetic sphere raises the field beyond its poles and lowers it at its equator."""
    grid = Grid((40, 40, 40), (1, 1, 1), b0_dir)
    field = field_of(np.float32(chi_ppm) * sphere(grid), grid)
    offsets = distances_mm(grid, middle(grid))
    r = np.sqrt(sum(d**2 for d in offsets))
    cosine = np.abs(sum(d * b for d, b in zip(offsets, grid.b0_dir, strict=True))) / r
    near = (r > RADIUS_MM + 1.5) & (r < RADIUS_MM + 5)
    assert (np.sign(chi_ppm) * field[near & (cosine > 0.9)]).min() > 0
    assert (np.sign(chi_ppm) * field[near & (cosine < 0.3)]).max() < 0


@pytest.mark.parametrize(("axis", "order"), [(0, (2, 1, 0)), (1, (0, 2, 1))])
def test_b0_along_another_axis_is_a_transposition(axis, order):
    rng, along = np.random.default_rng(0), [0.0, 0.0, 0.0]
    along[axis] = 1.0
    chi = rng.normal(size=(24, 20, 22)).astype(np.float32)
    voxel_mm = np.array((1.0, 1.2, 1.7))
    z_grid = Grid(chi.shape, tuple(voxel_mm))
    turned = np.ascontiguousarray(chi.transpose(order))
    other = Grid(turned.shape, tuple(voxel_mm[list(order)]), tuple(along))
    np.testing.assert_allclose(field_of(turned, other), field_of(chi, z_grid).transpose(order), atol=1e-5)


def test_field_depends_on_the_axis_of_b0_and_not_on_its_sense():
    chi = np.random.default_rng(1).normal(size=(20, 21, 22)).astype(np.float32)
    forth, back = (Grid(chi.shape, (1, 1, 2), tuple(s * b for b in OBLIQUE)) for s in (1, -1))
    np.testing.assert_allclose(field_of(chi, forth), field_of(chi, back), atol=1e-6)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (35, 0, 0), (20, -30, 50), (90, 0, 0), (0, 90, 0), (180, 0, 0)])
@pytest.mark.parametrize("flip", [None, 0, 1, 2])
def test_b0_is_the_worlds_z_whatever_the_affine(degrees, flip):
    """The field of a sphere, looked up in world coordinates, has its poles on the world's z axis."""
    affine = world_affine(degrees, (1.0, 1.0, 1.3))
    if flip is not None:
        affine[:3, flip] *= -1
    grid = Grid.from_affine((40, 40, 32), affine)
    field = field_of(sphere(grid), grid)
    centre = np.array(middle(grid))
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1) - centre
    world = voxels @ affine[:3, :3].T
    r = np.linalg.norm(world, axis=-1)
    shell = (r > RADIUS_MM + 2) & (r < 2 * RADIUS_MM)
    expected = (RADIUS_MM / r) ** 3 / 3 * (3 * (world[..., 2] / r) ** 2 - 1)
    assert_agrees(field[shell], expected[shell])


def test_millimetres_are_millimetres():
    """Scaling voxels and sources alike changes nothing; scaling one axis of the voxels alone does."""
    chi = np.random.default_rng(2).normal(size=(16, 18, 20)).astype(np.float32)
    one, two, flat = (field_of(chi, Grid(chi.shape, v)) for v in ((1, 1, 1), (2, 2, 2), (1, 1, 2)))
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert np.abs(one - flat).max() > 0.1


def test_sheared_affine_is_refused():
    affine = world_affine((10, 20, 30), (1, 1, 2))
    affine[:3, 0] += 0.05 * affine[:3, 1]
    with pytest.raises(InputError, match="sheared"):
        Grid.from_affine((8, 8, 8), affine)


def test_mean_susceptibility_makes_no_field():
    """D(0) = 0: a constant added everywhere cannot be seen."""
    chi = np.random.default_rng(3).normal(size=(16, 16, 16)).astype(np.float32)
    grid = Grid(chi.shape, (1, 1, 1), OBLIQUE)
    plain, raised = field_of(chi, grid, pad=1), field_of(chi + 1, grid, pad=1)
    np.testing.assert_allclose(plain, raised, atol=1e-5)
    assert abs(plain.mean()) < 1e-6


def test_ppm_to_hz_to_phase():
    """1 ppm at 3 T is 127.7 Hz; a paramagnetic shift turns the phase forwards."""
    assert hz_per_ppm(3.0) == pytest.approx(127.73, abs=0.01)
    assert rad_per_ppm(3.0, 0.010) == pytest.approx(2 * np.pi * 1.2773, abs=1e-3)
    grid = Grid((24, 24, 24))
    field = sphere_field_ppm(grid, (11.5, 11.5, 11.5), 5.0, 0.1)
    phase = rad_per_ppm(3.0, 0.010) * field
    assert phase[11, 11, 18] > 0 > phase[18, 11, 11]


def test_analytic_fields_decay_as_they_should():
    grid = Grid((65, 65, 65))
    field = sphere_field_ppm(grid, (32, 32, 32), 5.0, 1.5)
    assert field[32, 32, 42] == pytest.approx(1.5 * 2 / 3 / 8)
    assert field[42, 32, 32] == pytest.approx(-1.5 / 3 / 8)
    tube = cylinder_field_ppm(grid, (32, 32, 32), (0, 1, 0), 5.0, 1.5)
    assert tube[32, 10, 42] == pytest.approx(1.5 / 2 / 4)
    assert tube[42, 50, 32] == pytest.approx(-1.5 / 2 / 4)
    assert tube[32, 5, 32] == pytest.approx(-1.5 / 6)
