"""From a scan to a referenced susceptibility map: the stages of a recipe one after another, on the mask's box.

Progress travels as events; nothing is printed. Arrays given by the caller are never written.
`measure` is the way to the field, which recipes may share; `reconstruct` goes all the way, or on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsm_runtime import stages
from qsm_runtime.background.repair import repair
from qsm_runtime.calls import Calls, Event
from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box, box_of, convolve, embed
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import padded_shape, plan
from qsm_runtime.kernels.sphere import six_neighbours
from qsm_runtime.networks import choice
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.recipe import Recipe
from qsm_runtime.scan import Scan

__all__ = ["EXTRAS", "Event", "Measured", "Result", "forward_field", "measure", "reconstruct", "same_field"]

EXTRAS = ("local", "r2star", "swi")
TO_FIELD = ("mask", "offset", "unwrap", "field")
MARGIN_VOXELS = 1  # kept around the mask's box, so that differences at its rim exist


@dataclass
class Result:
    """What a reconstruction gives. Maps are float32 (x, y, z) on the scan's grid, zero outside `mask`.

    mask is where chi_ppm is valid (after any erosion), brain_mask where the field was. record holds what was chosen
    on the way: recipe, reference region and value, automatic parameters, threads, seconds a stage. local_ppm is the
    background method's; a single-step method makes none, and on request it is the field of chi_ppm.
    """

    chi_ppm: np.ndarray
    mask: np.ndarray
    brain_mask: np.ndarray
    total_ppm: np.ndarray
    reliability: np.ndarray
    local_ppm: np.ndarray | None
    r2star_per_s: np.ndarray | None = None
    swi: np.ndarray | None = None
    record: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """The total field of a scan on the box of its mask, and the record of how it was made; see `measure`.

    Arrays are on the box: magnitude float32 (echo, x, y, z), mask bool, total_ppm and reliability float32 (x, y, z).
    """

    scan: Scan
    crop: tuple[slice, ...]
    grid: Grid
    mask: np.ndarray
    magnitude: np.ndarray
    total_ppm: np.ndarray
    reliability: np.ndarray
    calls: Calls

    def serves(self, recipe: Recipe) -> bool:
        """Whether `recipe` makes the same field in the same way."""
        return same_field(recipe, self.calls.recipe)


def same_field(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes make the total field, and all that goes with it, in the same way."""
    same = all(one.steps.get(stage) == other.steps.get(stage) for stage in TO_FIELD)
    return same and _wants_phase(one) == _wants_phase(other)


def measure(
    scan: Scan,
    recipe: Recipe,
    *,
    mask: np.ndarray | None = None,
    progress: Callable[[Event], None] | None = None,
    runtime: Runtime | None = None,
) -> Measured:
    """A recipe as far as the total field: arguments and errors as for `reconstruct`."""
    choice.of_recipe(recipe, runtime)  # a network that is not there is found out first
    run = Calls(recipe, progress)
    if scan.n_not_finite:
        run.warn(f"{scan.n_not_finite} voxels are not finite and were left out")
    run.supply = {"echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla, "runtime": runtime}
    mask = _mask(run, scan, mask)

    # the rest happens on the mask's box
    whole, lo, hi = scan.grid, *_bounds(mask)
    crop = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
    grid = Grid((hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]), whole.voxel_mm, whole.b0_dir)
    mask = np.ascontiguousarray(mask[crop])
    magnitude = np.ascontiguousarray(scan.magnitude[(slice(None), *crop)])
    phase_rad = np.ascontiguousarray(scan.phase_rad[(slice(None), *crop)])
    run.supply["magnitude"] = magnitude
    total_ppm, reliability = _field(run, scan, phase_rad, magnitude, mask, grid)
    run.supply["reliability"] = reliability
    return Measured(scan, crop, grid, mask, magnitude, total_ppm, reliability, run)


def reconstruct(
    scan: Scan,
    recipe: Recipe,
    *,
    mask: np.ndarray | None = None,
    region: np.ndarray | None = None,
    extras: Sequence[str] = (),
    progress: Callable[[Event], None] | None = None,
    runtime: Runtime | None = None,
    measured: Measured | None = None,
) -> Result:
    """Susceptibility of a scan by a recipe.

    mask      bool (x, y, z): the user's mask, instead of the recipe's mask method
    region    bool (x, y, z): reference region, for reference method "region"
    extras    of EXTRAS: maps to make beside
    progress  called with Events
    runtime   how networks are run; None: Runtime()
    measured  what `measure` gave for this scan and mask, by a recipe that makes the field in the same way: the result
              is the same, bit for bit, without the stages before

    Raises ReconstructionError where a stage cannot give a trustworthy result, UsageError for options.
    """
    for name in extras:
        if name not in EXTRAS:
            raise UsageError(stages.unknown("extra map", name, EXTRAS))
    if measured is None:
        measured = measure(scan, recipe, mask=mask, progress=progress, runtime=runtime)
    elif measured.scan is not scan or not measured.serves(recipe):
        raise UsageError(f"recipe {recipe.name} cannot go on from the field that was measured: measure it again")
    run = measured.calls.go_on(recipe, progress)
    run.supply["runtime"] = runtime
    crop, grid, mask = measured.crop, measured.grid, measured.mask
    total_ppm, reliability = measured.total_ppm, measured.reliability

    def back(array: np.ndarray | None) -> Any:
        if array is None:
            return None
        full = np.zeros(scan.grid.shape, array.dtype)
        full[crop] = array
        return full

    swi = r2star_per_s = None
    if "swi" in extras:
        swi = _contrast(run, "swi", scan.magnitude, scan.phase_rad, back(mask), scan.grid)
    if "r2star" in extras or recipe.steps["reference"].method == "csf":
        r2star_per_s = _contrast(run, "r2star", measured.magnitude, mask, grid)
        run.supply["r2star_per_s"] = r2star_per_s
    local_ppm = None
    if "single_step" in recipe.steps:
        chi_ppm = run("single_step", total_ppm, mask, grid)
        # on the rim, a voxel without a trusted field of its own has neighbours on one side only: its value is a guess
        valid = mask & (six_neighbours(mask) | (reliability > 0))
        chi_ppm = np.where(valid, chi_ppm, np.float32(0))
        if "local" in extras:  # there is none on the way: the field that chi makes
            local_ppm = np.where(mask, forward_field(chi_ppm, grid), np.float32(0))
    else:
        # a voxel that the fit cannot explain would spread its error over the whole local field
        repaired_ppm = repair(total_ppm, mask, grid, reliability=reliability)
        local_ppm, valid = run("background", repaired_ppm, mask, grid)
        chi_ppm = run("inversion", local_ppm, valid, grid)
    if not np.isfinite(chi_ppm).all():
        raise ReconstructionError("the inversion diverged (values that are not finite); try another method or option")
    run.supply["region"] = None if region is None else np.ascontiguousarray(region[crop])
    chi_ppm, value_ppm, n_voxels = run("reference", chi_ppm, valid, grid)
    run.record["reference"] = {
        "region": recipe.steps["reference"].method,
        "value_ppm": float(value_ppm),
        "voxels": int(n_voxels),
    }

    return Result(
        back(chi_ppm),
        back(valid),
        back(mask),
        back(total_ppm),
        back(reliability),
        back(local_ppm),
        back(r2star_per_s),
        swi,
        run.record,
        run.warnings,
    )


def forward_field(chi_ppm: np.ndarray, grid: Grid) -> np.ndarray:
    """Field in ppm that `chi_ppm` (zero where there is none) makes on its grid."""
    nx, ny, nz = grid.shape
    p = plan(padded_shape(grid.shape, (nx // 2, ny // 2, nz // 2)))
    dipole = dipole_kernel(p.shape, grid.voxel_mm, grid.b0_dir, p.scale)
    field = convolve(embed(chi_ppm, Box((0, 0, 0), grid.shape, p.shape), p.real), dipole, p)
    return np.ascontiguousarray(field[:nx, :ny, :nz])


def _mask(run: Calls, scan: Scan, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        mask = run("mask", scan.magnitude, scan.phase_rad, scan.grid)
    else:
        scan.grid.check(mask, "mask")
        run.record["recipe"]["mask"] = {"method": "user"}
    mask = mask.astype(bool) & scan.finite
    if not mask.any():
        raise ReconstructionError("the mask is empty; give one with --mask, or another mask method")
    run.record["mask_voxels"] = int(np.count_nonzero(mask))
    return mask


def _field(
    run: Calls, scan: Scan, phase_rad: np.ndarray, magnitude: np.ndarray, mask: np.ndarray, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    if scan.n_echoes == 1 and run.recipe.steps["offset"].method != "none":
        run.warn("a single echo: its phase offset cannot be told from the field and is left in")
    else:
        phase_rad = run("offset", phase_rad, mask, grid)
    if _wants_phase(run.recipe):
        run.supply["phase_rad"] = phase_rad  # a network may start from the wrapped phase
    phase_rad = run("unwrap", phase_rad, mask, grid)
    total_ppm, reliability = run("field", phase_rad, magnitude, scan.echo_times_s, scan.b0_tesla, mask, grid)
    return total_ppm, reliability


def _wants_phase(recipe: Recipe) -> bool:
    last = recipe.steps.get("single_step")
    return last is not None and "phase_rad" in stages.supplied(stages.method("single_step", last.method))


def _contrast(run: Calls, name: str, *arguments: Any) -> Any:
    from qsm_runtime import contrast

    return run.call(name, name, contrast.METHODS[name], arguments, {})


def _bounds(mask: np.ndarray) -> tuple[list[int], list[int]]:
    box = box_of(mask)
    lo = [max(0, a - MARGIN_VOXELS) for a in box.lo]
    hi = [min(n, b + MARGIN_VOXELS) for b, n in zip(box.hi, mask.shape, strict=True)]
    return lo, hi
