"""What every method of background removal asks of its input, and the refusal of an empty result."""

import numpy as np

from qsm_runtime.errors import InputError, ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of


class Masked:
    """A field cut to its mask's bounding box, and the way back; all work is done on the cut.

    field  float32, the field in the mask less its mean there, zero outside; the mean is background to every method,
           and without it more of float32's digits are left for the rest
    mask   bool
    grid   of the cut
    Raises ShapeError, InputError where a masked voxel is not finite, ReconstructionError where the mask is empty.
    """

    def __init__(self, total_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
        grid.check(total_ppm, "total_ppm")
        grid.check(mask, "mask")
        if not mask.any():
            raise ReconstructionError("the mask is empty: give a mask that covers the object")
        self.box = box_of(mask)
        self.full_shape = grid.shape
        self.mask = self.cut(mask)
        self.grid = Grid(self.box.size, grid.voxel_mm, grid.b0_dir)
        total_ppm = total_ppm[self.box.slices]
        mean = float(total_ppm.mean(where=self.mask, dtype=np.float64))
        if not np.isfinite(mean):
            bad = int(np.count_nonzero(~np.isfinite(total_ppm) & self.mask))
            raise InputError(f"total_ppm is not finite in {bad} voxel(s) of the mask: repair them or unmask them")
        self.field = np.where(self.mask, total_ppm - np.float32(mean), np.float32(0)).astype(np.float32, copy=False)

    def cut(self, x: np.ndarray) -> np.ndarray:
        """The part of a full array in the mask's bounding box: contiguous copy."""
        return np.array(x[self.box.slices], order="C")

    def restore(self, local_ppm: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Local field (zeroed where not valid) and valid voxels, in new full arrays."""
        local_full, valid_full = np.zeros(self.full_shape, np.float32), np.zeros(self.full_shape, np.bool_)
        np.multiply(local_ppm, valid, out=local_full[self.box.slices])
        valid_full[self.box.slices] = valid
        return local_full, valid_full


def voxels_of(length_mm: float, grid: Grid) -> tuple[int, int, int]:
    """Voxels along each axis that make up at least `length_mm`."""
    x, y, z = (int(np.ceil(length_mm / v)) for v in grid.voxel_mm)
    return x, y, z


def refuse_empty(valid: np.ndarray, method: str, radius_mm: float) -> None:
    """Raise ReconstructionError where nothing is left of the mask after erosion by `radius_mm`."""
    if not valid.any():
        raise ReconstructionError(
            f"{method}: no voxel of the mask is {radius_mm:g} mm from its edge; use a smaller radius or a larger mask"
        )


def require(condition: bool, name: str, needed: str, value: object) -> None:
    """Raise UsageError that names the option, what it must be and what it was."""
    if not condition:
        raise UsageError(f"{name} must be {needed}, got {value}")
