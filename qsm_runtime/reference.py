"""Reference of a susceptibility map: the region whose mean is set to zero.

A dipole carries no information on the mean susceptibility, so a map is only known up to a constant.
csf: ventricle-like region as in MEDI+0, Liu 2018, 10.1002/mrm.26946: R2* under 5 1/s, deep and central in the brain,
its three largest parts.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import label

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.distance import distance_inside

DEEP_MM = 10.0  # farther than this from the brain's surface: no sulci, no cisterns
CENTRAL_MM = 30.0  # from the centre of what is that deep
PARTS = 3  # two lateral ventricles and the third
MIN_ML = 0.5  # lateral ventricles of a young adult hold 5 ml and more


def none(chi_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, float, int]:
    """The map as it is: value 0, no voxels."""
    return _subtract(chi_ppm, mask, np.zeros(grid.shape, bool), 0.0)


def whole_mask(chi_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, float, int]:
    """The mean over the mask set to zero."""
    return _to_region(chi_ppm, mask, mask, grid, "the mask")


def region(
    chi_ppm: np.ndarray, mask: np.ndarray, grid: Grid, *, region: np.ndarray | None
) -> tuple[np.ndarray, float, int]:
    """The mean over `region` (bool, x, y, z) set to zero; what of it lies outside the mask does not count."""
    if region is None:
        raise UsageError("the reference region needs a region: give a mask of it, or choose reference whole_mask")
    grid.check(region, "reference region")
    return _to_region(chi_ppm, mask, region.astype(bool) & mask, grid, "the reference region inside the mask")


def csf(
    chi_ppm: np.ndarray, mask: np.ndarray, grid: Grid, *, r2star_per_s: np.ndarray | None, max_r2star_per_s: float = 5.0
) -> tuple[np.ndarray, float, int]:
    """The mean over the ventricles' fluid set to zero; see `csf_region`."""
    found = csf_region(r2star_per_s, mask, grid, max_r2star_per_s=max_r2star_per_s)
    return _to_region(chi_ppm, mask, found, grid, "the fluid found")


def csf_region(
    r2star_per_s: np.ndarray | None, mask: np.ndarray, grid: Grid, *, max_r2star_per_s: float = 5.0
) -> np.ndarray:
    """Bool (x, y, z): ventricle-like fluid, from R2* in 1/s (float32) inside a brain mask.

    Raises ReconstructionError where less than half a millilitre is found.
    """
    if r2star_per_s is None:
        raise ReconstructionError("the reference csf needs R2*, so two echoes or more: reference whole_mask instead")
    if not max_r2star_per_s > 0:
        raise UsageError(f"max_r2star_per_s must be > 0, got {max_r2star_per_s}")
    grid.check(r2star_per_s, "R2*")
    grid.check(mask, "mask")
    deep = distance_inside(mask, grid.voxel_mm, DEEP_MM) > DEEP_MM
    # R2* = 0 is a fit that failed or ran into its bound, as often as fluid: kept, its neighbours decide
    fluid = deep & (r2star_per_s < max_r2star_per_s)
    labels, count = label(fluid)
    if count:
        centre = [float(np.average(np.arange(n), weights=deep.sum(axis=others))) for n, others in _axes(deep)]
        x, y, z = (((np.arange(n) - c) * v) ** 2 for n, c, v in zip(grid.shape, centre, grid.voxel_mm, strict=True))
        central = x[:, None, None] + y[:, None] + z < CENTRAL_MM**2
        sizes = np.bincount(labels[central], minlength=count + 1)
        sizes[0] = 0
        largest = np.argsort(-sizes, kind="stable")[:PARTS]
        fluid = np.isin(labels, largest[sizes[largest] > 0])
    if fluid.sum() * grid.voxel_volume_mm3 < 1000 * MIN_ML:
        raise ReconstructionError(
            f"no ventricle-like fluid (R2* under {max_r2star_per_s:g} 1/s deep in the mask, {MIN_ML} ml) was found to "
            "reference to: reference whole_mask, or give a region"
        )
    return fluid


def _axes(array: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    return [(array.shape[axis], tuple(a for a in range(3) if a != axis)) for axis in range(3)]


def _to_region(
    chi_ppm: np.ndarray, mask: np.ndarray, where: np.ndarray, grid: Grid, name: str
) -> tuple[np.ndarray, float, int]:
    grid.check(chi_ppm, "susceptibility map")
    grid.check(mask, "mask")
    if not where.any():
        raise ReconstructionError(f"{name} holds no voxel to reference to: give a region that overlaps the mask")
    value_ppm = float(chi_ppm[where].mean(dtype=np.float64))
    if not np.isfinite(value_ppm):
        raise ReconstructionError(f"the susceptibility map is not finite in {name}")
    return _subtract(chi_ppm, mask, where, value_ppm)


def _subtract(
    chi_ppm: np.ndarray, mask: np.ndarray, where: np.ndarray, value_ppm: float
) -> tuple[np.ndarray, float, int]:
    """(chi_ppm - value inside the mask and 0 outside, value_ppm, voxels of the region)."""
    if chi_ppm.shape != mask.shape:
        raise ShapeError(f"the susceptibility map has shape {chi_ppm.shape}, the mask {mask.shape}")
    return np.where(mask, chi_ppm - np.float32(value_ppm), np.float32(0)), value_ppm, int(where.sum())


METHODS: dict[str, Callable] = {"none": none, "whole_mask": whole_mask, "csf": csf, "region": region}
