"""The single step with a network in it: its start, its free sources, what it does with perfect and idle networks."""

import numpy as np
import pytest

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box
from qsm_runtime.metrics import correlation, xsim
from qsm_runtime.networks import joint_proximal as joint
from qsm_runtime.networks.learned_proximal import refine
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head
from qsm_runtime.single_step.joint_tv import joint_tv
from qsm_runtime.single_step.network import network
from qsm_runtime.single_step.split import solver_box

GRID = Grid((30, 34, 27), (1.0, 1.2, 1.5), (0.2, -0.1, 0.97))


def dipole(shape: tuple[int, ...], grid: Grid) -> np.ndarray:
    """Float64, full spectrum, D(0) = 0."""
    k = np.meshgrid(*(np.fft.fftfreq(n, v) for n, v in zip(shape, grid.voxel_mm, strict=True)), indexing="ij")
    k2, along = sum(a**2 for a in k), sum(a * b for a, b in zip(k, grid.b0_dir, strict=True))
    return np.where(k2 > 0, 1 / 3 - along**2 / np.where(k2 > 0, k2, 1), 0)


def field_of(sources: np.ndarray, grid: Grid) -> np.ndarray:
    return np.fft.ifftn(dipole(sources.shape, grid) * np.fft.fftn(sources)).real


@pytest.fixture(scope="module")
def scene() -> dict[str, np.ndarray]:
    """An ellipsoid with a few sources in it, air-like ones beside it, and the total field with a little noise."""
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) for n in GRID.shape), indexing="ij")
    mask = (x / 12) ** 2 + (y / 13) ** 2 + (z / 10) ** 2 < 1
    chi = 0.1 * ((x - 3) ** 2 + y**2 + z**2 < 16) - 0.06 * ((x + 5) ** 2 + (y - 4) ** 2 + (z + 1) ** 2 < 9)
    chi = np.where(mask, chi + 0.02 * (np.sin(y / 2) > 0), 0)
    wide = [n + 24 for n in GRID.shape]
    inner = tuple(slice(12, 12 + n) for n in GRID.shape)
    sources, inside = np.zeros(wide), np.zeros(wide)
    sources[14:20, 20:34, 8:14] = -3.0
    sources[34:44, 40:46, 34:40] = 2.0
    sources[inner][mask] = 0
    inside[inner] = chi
    background, local = field_of(sources, GRID)[inner], field_of(inside, GRID)[inner]
    noise = 2e-4 * np.random.default_rng(1).standard_normal(GRID.shape)
    total = np.where(mask, background + local + noise, 0)
    return {"mask": mask, "chi": chi.astype(np.float32), "total": total.astype(np.float32), "background": background}


def test_the_start_is_joint_tv(scene) -> None:
    p = joint.prepare(scene["total"], scene["mask"], GRID)
    wanted = joint_tv(scene["total"], scene["mask"], GRID)
    assert np.array_equal(p.start, wanted[p.box.slices])
    assert (p.kept2 <= p.weight2 * 1.001).all()
    # what is left of the field is nearer to the susceptibility's own than the total field is, up to what is smooth
    background = (p.field - field_of(scene["chi"], GRID)[p.box.slices])[p.weight2 > 0.5]
    assert background.std() < 0.05 * scene["background"][scene["mask"]].std()


def test_free_sources_explain_what_comes_from_outside_alone() -> None:
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) for n in GRID.shape), indexing="ij")
    mask = (x / 10) ** 2 + (y / 11) ** 2 + (z / 8) ** 2 < 1
    box: Box = solver_box(mask, GRID.voxel_mm)
    inside = mask[box.slices]
    outer = np.zeros(box.fft_shape)
    outer[2:5, 14:18, 1:4] = 1.0
    low = tuple(slice(n) for n in box.size)
    outer[low][inside] = 0
    from_outside = np.where(inside, field_of(outer, GRID)[low], 0).astype(np.float32)
    inner = np.zeros(box.fft_shape)
    inner[tuple(slice(n // 2 - 1, n // 2 + 1) for n in box.size)] = 1.0
    from_inside = np.where(inside, field_of(inner, GRID)[low], 0).astype(np.float32)

    def left(field: np.ndarray, steps: int) -> float:
        found = joint.FreeSources(box, GRID, inside.astype(np.float32), inside, steps)(field)
        return float(np.linalg.norm((field - found)[inside]) / np.linalg.norm(field[inside]))

    assert left(from_outside, 12) < left(from_outside, 4) < 0.25
    assert left(from_inside, 4) > 0.9
    assert not joint.FreeSources(box, GRID, inside.astype(np.float32), inside)(np.zeros_like(from_inside)).any()


def test_free_sources_are_the_least_squares_ones() -> None:
    """Against a dense float64 solution on a grid that is small enough for one."""
    grid, box = Grid((8, 8, 8), (1.0, 1.0, 1.3)), Box((0, 0, 0), (6, 6, 6), (8, 8, 8))
    rng = np.random.default_rng(3)
    inside = np.zeros((6, 6, 6), bool)
    inside[1:5, 1:5, 2:5] = True
    weight2 = np.where(inside, rng.uniform(0.5, 1.0, inside.shape), 0).astype(np.float32)
    residual = np.where(inside, rng.standard_normal(inside.shape), 0).astype(np.float32)
    free = np.ones(box.fft_shape, bool)
    free[:6, :6, :6] = ~inside
    columns = []
    for place in np.argwhere(free):
        one = np.zeros(box.fft_shape)
        one[tuple(place)] = 1
        columns.append(field_of(one, grid)[:6, :6, :6][inside])
    a, w = np.stack(columns, 1), np.sqrt(weight2[inside].astype(float))
    wanted = a @ np.linalg.lstsq(w[:, None] * a, w * residual[inside], rcond=None)[0]
    found = joint.FreeSources(box, grid, weight2, inside, 200)(residual)[inside]
    misfit = [float((weight2[inside] * (residual[inside] - made) ** 2).sum()) for made in (found, wanted)]
    assert misfit[0] <= misfit[1] + 1e-3 * float((weight2[inside] * residual[inside] ** 2).sum())


def test_what_a_perfect_network_sets_right_is_not_undone(scene) -> None:
    chi, mask, grid = scene["chi"], scene["mask"], GRID
    p = joint.prepare(scene["total"], mask, grid)

    def perfect(seen):
        return {"chi": chi}

    def error(background) -> float:
        x = refine(p, perfect, passes=1, data_ridge=joint.DATA_RIDGE, level_step=0.0, background=background)
        return float(np.linalg.norm((x - chi)[mask]))

    start = float(np.linalg.norm((p.start - chi[p.box.slices])[p.mask]))
    free = error(joint.FreeSources(p.box, grid, p.weight2, p.mask))
    assert free < 0.7 * error(None)
    assert free < 0.4 * start


def test_an_idle_network_leaves_the_map_near_its_start(scene) -> None:
    mask = scene["mask"]
    x = joint.joint_proximal(scene["total"], mask, GRID, lambda seen: {"chi": seen["chi"]})
    start = joint_tv(scene["total"], mask, GRID)
    assert not x[~mask].any()
    assert x[mask].all()  # nothing of the mask is lost
    assert correlation(x[mask], start[mask]) > 0.97


def test_a_larger_field_of_view_changes_nothing(scene) -> None:
    """Through the stage, where the network sees the mask's box alone."""
    runtime, around = Runtime(device="ort-cpu"), ((3, 2), (1, 4), (5, 0))
    wide = Grid(tuple(n + sum(w) for n, w in zip(GRID.shape, around, strict=True)), GRID.voxel_mm, GRID.b0_dir)
    x = network(scene["total"], scene["mask"], GRID, model="total", runtime=runtime)
    total, mask = np.pad(scene["total"], around, constant_values=9.0), np.pad(scene["mask"], around)
    assert np.array_equal(network(total, mask, wide, model="total", runtime=runtime), np.pad(x, around))


def test_a_mask_without_interior_is_refused() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[5:20, 5:20, 8] = True
    with pytest.raises(ReconstructionError, match="six neighbours"):
        joint.joint_proximal(np.zeros(GRID.shape, np.float32), mask, GRID, lambda seen: {"chi": seen["chi"]})


def test_the_shipped_network_beats_what_it_starts_from() -> None:
    """A head never trained on, true total field with noise."""
    head = simulate_head(Grid((52, 62, 52), (3.3, 3.3, 3.3), (0.0, 0.3, 0.95)), seed=7)
    truth, grid, mask = head.truth, head.scan.grid, head.truth.mask
    noise = 5e-4 * np.random.default_rng(2).standard_normal(grid.shape, np.float32)
    total = np.where(mask, truth.total_ppm + noise, 0).astype(np.float32)
    x = network(total, mask, grid, model="total", runtime=Runtime(device="ort-cpu"))
    start = joint_tv(total, mask, grid)
    assert np.isfinite(x).all()
    assert not x[~mask].any()
    assert xsim(x, truth.chi_ppm, mask) > xsim(start, truth.chi_ppm, mask) + 0.03
    assert correlation(x[mask], truth.chi_ppm[mask]) > correlation(start[mask], truth.chi_ppm[mask])
