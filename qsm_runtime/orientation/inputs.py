"""What methods of several orientations ask of their input, and the quadratic form that the orientations measure.

Along the unit vector b a tensor T is seen as b^T T b: one row of six numbers an orientation (see geometry).
"""

import numpy as np

from qsm_runtime.errors import InputError, ReconstructionError, ShapeError
from qsm_runtime.grid import Grid
from qsm_runtime.orientation.geometry import check_count, check_geometry, quadratic_rows


def checked_orientations(
    local_ppm: np.ndarray, mask: np.ndarray, grid: Grid, b0_dirs: np.ndarray, method: str
) -> np.ndarray:
    """Unit vectors (n, 3) in float64. Raises ShapeError, InputError, ReconstructionError (empty mask)."""
    directions = np.asarray(b0_dirs, float)
    if local_ppm.ndim != 4 or local_ppm.shape[1:] != grid.shape:
        raise ShapeError(f"local_ppm has shape {local_ppm.shape}, expected (n, {', '.join(map(str, grid.shape))})")
    if directions.shape != (len(local_ppm), 3):
        raise ShapeError(f"b0_dirs has shape {directions.shape}, expected ({len(local_ppm)}, 3): one a field")
    grid.check(mask, "mask")
    check_count(method, len(local_ppm))
    if not mask.any():
        raise ReconstructionError("the mask is empty: give a mask that covers the object in all orientations")
    norms = np.linalg.norm(directions, axis=1)
    if not np.all(np.isfinite(norms)) or norms.min() == 0:
        raise InputError("b0_dirs must hold finite vectors that are not all zero")
    if not all(np.isfinite(field[mask]).all() for field in local_ppm):
        raise InputError("local_ppm is not finite in the mask: repair it or take those voxels out of the mask")
    directions = directions / norms[:, None]
    check_geometry(method, directions)
    return directions


def fit_quadratic_form(local_ppm: np.ndarray, directions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """T (6, x, y, z) float32 that fits the fields of checked orientations best, zero outside the mask."""
    inverse = np.linalg.pinv(quadratic_rows(directions)).astype(np.float32)
    form = np.tensordot(inverse, local_ppm.astype(np.float32, copy=False), axes=1)
    return np.where(mask, form, np.float32(0))
