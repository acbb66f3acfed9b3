"""Every method of every stage keeps its stage's contract: signature, types, zeros outside the mask, untouched
inputs, the same bits twice, an oblique anisotropic odd-sized grid, and errors instead of nonsense."""

import inspect

import numpy as np
import pytest

from qsm_runtime import stages
from qsm_runtime.errors import QsmError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of, convolve, embed
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import plan
from qsm_runtime.units import rad_per_ppm

SHAPE = (31, 36, 29)
GRID = Grid(SHAPE, (1.5, 1.5, 2.0), (0.2, -0.1, 0.97))
TE = (0.004, 0.009, 0.014)
B0 = 3.0
LEADING = {
    "mask": ("magnitude", "phase_rad", "grid"),
    "offset": ("phase_rad", "mask", "grid"),
    "unwrap": ("phase_rad", "mask", "grid"),
    "field": ("phase_rad", "magnitude", "echo_times_s", "b0_tesla", "mask", "grid"),
    "background": ("total_ppm", "mask", "grid"),
    "inversion": ("local_ppm", "mask", "grid"),
    "single_step": ("total_ppm", "mask", "grid"),
    "reference": ("chi_ppm", "mask", "grid"),
}
MAY_REFUSE = {("reference", "csf")}  # this ball has no ventricles
ALL = [(stage, name) for stage in stages.STAGES for name in stages.methods(stage)]
# a network must be named (model = "" runs none): tests/networks runs each stage's `network` on models made there
RUN = [(stage, name) for stage, name in ALL if name != "network"]


@pytest.fixture(scope="module")
def case() -> dict:
    """A head-sized ellipsoid with two sources inside and one outside, noise, three echoes."""
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(
        *((np.arange(n) - n // 2) * v for n, v in zip(SHAPE, GRID.voxel_mm, strict=True)), indexing="ij"
    )
    mask = (x / 18) ** 2 + (y / 22) ** 2 + (z / 22) ** 2 < 1
    chi = 0.03 * np.sin(x / 5) * np.cos(y / 6)
    chi[(x - 5) ** 2 + y**2 + z**2 < 25] = 0.15
    chi[(x + 6) ** 2 + (y - 4) ** 2 + (z + 3) ** 2 < 16] = -0.1
    chi = np.where(mask, chi, 0).astype(np.float32)
    p = plan((60, 72, 60))
    dipole = dipole_kernel(p.shape, GRID.voxel_mm, GRID.b0_dir, p.scale)
    box = box_of(np.ones(SHAPE, bool))._replace(fft_shape=p.shape)

    def field(source: np.ndarray) -> np.ndarray:
        return convolve(embed(source, box, p.real), dipole, p, p.new_real())[: SHAPE[0], : SHAPE[1], : SHAPE[2]].copy()

    outside = np.where((x - 2) ** 2 + (y + 30) ** 2 + z**2 < 64, 4.0, 0).astype(np.float32)
    local, total = field(chi), field(chi + outside)
    offset = 0.5 + 0.02 * x
    magnitude = np.stack([np.where(mask, 100.0 * np.exp(-t / 0.04), 2.0) for t in TE])
    phase = np.stack([rad_per_ppm(B0, t) * total + offset for t in TE])
    s = magnitude * np.exp(1j * phase) + rng.normal(size=phase.shape) + 1j * rng.normal(size=phase.shape)
    return {
        "chi_ppm": chi,
        "mask": mask,
        "local_ppm": np.where(mask, local, 0).astype(np.float32),
        "total_ppm": np.where(mask, total, 0).astype(np.float32),
        "magnitude": np.abs(s).astype(np.float32),
        "phase_rad": np.angle(s).astype(np.float32),
        "reliability": np.where(mask, 1000.0, 0).astype(np.float32),
        "r2star_per_s": np.where(mask, 25.0, 0).astype(np.float32),
        "region": mask & (np.abs(x) < 6),
        "echo_times_s": TE,
        "b0_tesla": B0,
        "grid": GRID,
        "progress": lambda fraction: None,
        "record": lambda key, value: None,
        "runtime": None,
    }


def run(stage: str, name: str, case: dict, **options):
    function = stages.method(stage, name)
    given = {k: case[k] for k in stages.supplied(function)}
    return function(*(case[a] for a in LEADING[stage]), **given, **options)


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_signature_and_words(stage: str, name: str) -> None:
    function = stages.method(stage, name)
    parameters = inspect.signature(function).parameters.values()
    assert tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD) == LEADING[stage]
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    assert function.__doc__
    for option in stages.options(function).values():
        if option.default is not inspect.Parameter.empty:  # a default is a valid value of its own option
            assert stages.check_option(stage, name, option.name, option.default) == option.default
        with pytest.raises(UsageError, match="valid:"):
            stages.check_option(stage, name, option.name + "x", 1)


@pytest.mark.parametrize(("stage", "name"), RUN)
def test_contract(stage: str, name: str, case: dict) -> None:
    before = {k: v.copy() for k, v in case.items() if isinstance(v, np.ndarray)}
    if (stage, name) in MAY_REFUSE:
        try:
            first, second = run(stage, name, case), run(stage, name, case)
        except QsmError:
            return
    else:
        first, second = run(stage, name, case), run(stage, name, case)
    for key, array in before.items():
        assert np.array_equal(case[key], array), f"{key} was written"
    results = first if isinstance(first, tuple) else (first,)
    again = second if isinstance(second, tuple) else (second,)
    for a, b in zip(results, again, strict=True):
        assert np.array_equal(a, b)
    mask = case["mask"]
    if stage == "mask":
        assert results[0].dtype == bool
        assert results[0].shape == SHAPE
        assert results[0].any()
        return
    main = results[0]
    assert main.dtype == np.float32
    assert main.flags.c_contiguous
    assert np.isfinite(main).all()
    if stage in ("offset", "unwrap"):
        assert main.shape == (3, *SHAPE)
        return
    assert main.shape == SHAPE
    assert not main[~mask].any()
    assert main[mask].any() or stage == "reference"
    if stage == "background":
        assert results[1].dtype == bool
        assert not results[1][~mask].any()
        assert not main[~results[1]].any()


# how well each stage must at least do on this coarse, noisy ball: a wrong sign, scale or axis fails
@pytest.mark.parametrize("name", [n for s, n in RUN if s == "background"])
def test_background_finds_the_local_field(name: str, case: dict) -> None:
    local, valid = run("background", name, case)
    assert np.corrcoef(local[valid], case["local_ppm"][valid])[0, 1] > 0.6
    assert 0.5 < np.polyfit(case["local_ppm"][valid], local[valid], 1)[0] < 1.4


@pytest.mark.parametrize(("stage", "name"), [a for a in RUN if a[0] in ("inversion", "single_step")])
def test_susceptibility_has_the_right_sign_and_place(stage: str, name: str, case: dict) -> None:
    chi = run(stage, name, case)
    mask = case["mask"]
    assert np.corrcoef(chi[mask], case["chi_ppm"][mask])[0, 1] > 0.6
    assert 0.35 < np.polyfit(case["chi_ppm"][mask], chi[mask], 1)[0] < 1.3
