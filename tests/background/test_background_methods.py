"""Properties every method of background removal must have."""

import numpy as np
import pytest

from qsm_runtime.background import METHODS
from qsm_runtime.errors import InputError, QsmError, ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.distance import distance_inside

# options that let the methods fit into the small object; and what may be left of an external field, relative to it
SMALL = {
    "sharp": ({"radius_mm": 4.0}, 0.01),
    "vsharp": ({"radius_mm": 6.0}, 0.02),
    "resharp": ({"radius_mm": 4.0}, 0.01),
    "ismv": ({"radius_mm": 4.0}, 0.01),
    "lbv": ({}, 0.01),
    "pdf": ({"padding_mm": 12.0, "max_iterations": 15}, 0.05),
    "harperella": ({"radius_mm": 6.0, "max_iterations": 8}, 0.03),
}
NAMES = sorted(set(METHODS) - {"network"})  # which has tests of its own


def run(name, total_ppm, mask, grid, **options):
    return METHODS[name](total_ppm, mask, grid, **{**SMALL[name][0], **options})


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("name", NAMES)
def test_external_fields_are_removed(name, case):
    total = np.where(case.mask, case.external_ppm, 0).astype(np.float32)
    local, valid = run(name, total, case.mask, case.grid)
    left = rms(local[valid]) / case.external_ppm[case.mask].std()
    assert left < SMALL[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_external_fields_are_removed_on_other_grids(name, other_case):
    total = np.where(other_case.mask, other_case.external_ppm, 0).astype(np.float32)
    local, valid = run(name, total, other_case.mask, other_case.grid)
    left = rms(local[valid]) / other_case.external_ppm[other_case.mask].std()
    assert left < 1.5 * SMALL[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_local_field_is_kept(name, case):
    local, valid = run(name, case.total_ppm, case.mask, case.grid)
    inner = valid & (distance_inside(case.mask, case.grid.voxel_mm) > 6)
    truth = case.local_ppm[inner]
    assert rms(local[inner] - truth) < 0.35 * rms(truth)
    assert np.corrcoef(local[inner], truth)[0, 1] > 0.94


@pytest.mark.parametrize("name", NAMES)
def test_output_contract(name, case):
    total, mask = case.total_ppm, case.mask
    before = total.copy(), mask.copy()
    local, valid = run(name, total, mask, case.grid)
    np.testing.assert_array_equal(total, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert local.dtype == np.float32
    assert local.flags.c_contiguous
    assert valid.dtype == bool
    assert valid.any()
    assert not (valid & ~mask).any()
    assert not local[~valid].any()
    assert np.isfinite(local).all()
    again, _ = run(name, total, mask, case.grid)
    np.testing.assert_array_equal(local, again)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_the_mask_matters(name, case):
    total = np.where(case.mask, case.total_ppm, np.nan).astype(np.float32)
    local, _ = run(name, total, case.mask, case.grid)
    np.testing.assert_array_equal(local, run(name, case.total_ppm, case.mask, case.grid)[0])


@pytest.mark.parametrize("name", NAMES)
def test_scaling_and_a_constant(name, case):
    local, _ = run(name, case.total_ppm, case.mask, case.grid)
    shifted = (-2 * case.total_ppm + np.float32(1.0)) * case.mask
    other, _ = run(name, shifted, case.mask, case.grid)
    np.testing.assert_allclose(other, -2 * local, atol=1e-2 * np.abs(local).max())  # stopped early


@pytest.mark.parametrize("name", NAMES)
def test_flips_and_rotations(name, case):
    local, valid = run(name, case.total_ppm, case.mask, case.grid)

    def turn(x):
        return np.ascontiguousarray(x[::-1, :, ::-1].transpose(2, 0, 1))

    grid = Grid(turn(case.mask).shape, (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))  # B0 was along z: now the first axis
    turned, turned_valid = run(name, turn(case.total_ppm), turn(case.mask), grid)
    np.testing.assert_array_equal(turned_valid, turn(valid))
    np.testing.assert_allclose(turned, turn(local), atol=1e-2 * np.abs(local).max())


@pytest.mark.parametrize("name", NAMES)
def test_disconnected_mask_touching_the_border(name, case):
    mask = case.mask.copy()
    mask[22:25] = False
    shape = tuple(n - 12 for n in mask.shape[:1]) + mask.shape[1:]
    cropped = np.ascontiguousarray(mask[6:-6])
    grid = Grid(shape, case.grid.voxel_mm, case.grid.b0_dir)
    local, valid = run(name, np.ascontiguousarray(case.total_ppm[6:-6]), cropped, grid)
    assert np.isfinite(local).all()
    assert valid[:16].any()
    assert valid[19:].any()


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name, case):
    with pytest.raises(ReconstructionError, match="mask"):
        run(name, case.total_ppm, np.zeros_like(case.mask), case.grid)
    with pytest.raises(ShapeError, match="total_ppm"):
        run(name, case.total_ppm[1:], case.mask, case.grid)
    with pytest.raises(ShapeError, match="mask"):
        run(name, case.total_ppm, case.mask[1:], case.grid)
    hole = case.total_ppm.copy()
    hole[tuple(np.argwhere(case.mask)[1000])] = np.nan
    with pytest.raises(InputError, match="1 voxel"):
        run(name, hole, case.mask, case.grid)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_left_after_erosion_is_refused(name, case):
    speck = np.zeros_like(case.mask)
    speck[20:22, 20:22, 20:22] = True  # every voxel is on the edge
    with pytest.raises(ReconstructionError, match="edge"):
        run(name, case.total_ppm, speck, case.grid)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sharp", {"radius_mm": 0.0}),
        ("sharp", {"threshold": 1.0}),
        ("vsharp", {"smallest_radius_mm": 13.0, "radius_mm": 12.0}),
        ("vsharp", {"radius_step_mm": 0.0}),
        ("resharp", {"regularisation": -1.0}),
        ("ismv", {"tolerance": 0.0}),
        ("lbv", {"peel_mm": -1.0}),
        ("lbv", {"max_iterations": 0}),
        ("pdf", {"tolerance": 2.0}),
        ("harperella", {"radius_mm": 0.0}),
        *((name, {"source_passes": -1}) for name in NAMES if name != "harperella"),
    ],
)
def test_options_out_of_range(name, options, case):
    with pytest.raises(UsageError, match=next(iter(options))):
        METHODS[name](case.total_ppm, case.mask, case.grid, **options)


def test_all_errors_are_the_projects_own():
    for error in (InputError, ReconstructionError, ShapeError, UsageError):
        assert issubclass(error, QsmError)


def test_pdf_ignores_what_cannot_be_trusted(case):
    rng = np.random.default_rng(3)
    trusted = (rng.random(case.mask.shape) > 0.02) | ~case.mask
    spoilt = np.where(trusted, case.total_ppm, case.total_ppm + 0.3 * rng.choice([-1, 1], trusted.shape))
    reliability = np.where(trusted, 100, 0).astype(np.float32)
    options = {"source_passes": 0}
    clean, valid = run("pdf", case.total_ppm, case.mask, case.grid, **options)
    weighted, _ = run("pdf", spoilt.astype(np.float32), case.mask, case.grid, reliability=reliability, **options)
    unweighted, _ = run("pdf", spoilt.astype(np.float32), case.mask, case.grid, **options)
    here = valid & trusted
    assert rms((weighted - clean)[here]) < 0.3 * rms((unweighted - clean)[here])
    with pytest.raises(ShapeError, match="reliability"):
        run("pdf", case.total_ppm, case.mask, case.grid, reliability=reliability[1:])
