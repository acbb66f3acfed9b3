"""What methods of several orientations ask of their input, and the quadratic form that the orientations measure.

Along the unit vector b a tensor T is seen as b^T T b: one row of six numbers an orientation, in the order
xx, xy, xz, yy, yz, zz with the off-diagonal ones doubled.
"""

import numpy as np

from qsm_runtime.errors import InputError, ReconstructionError, ShapeError
from qsm_runtime.grid import Grid

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # order of a symmetric tensor's six components
LEAST_SINGULAR_VALUE = 0.05  # of the rows over the square root of their number: 20-fold noise at most


def checked_orientations(
    local_ppm: np.ndarray, mask: np.ndarray, grid: Grid, b0_dirs: np.ndarray, least: int, method: str
) -> np.ndarray:
    """Unit vectors (n, 3) in float64. Raises ShapeError, InputError, ReconstructionError (empty mask)."""
    directions = np.asarray(b0_dirs, float)
    if local_ppm.ndim != 4 or local_ppm.shape[1:] != grid.shape:
        raise ShapeError(f"local_ppm has shape {local_ppm.shape}, expected (n, {', '.join(map(str, grid.shape))})")
    if directions.shape != (len(local_ppm), 3):
        raise ShapeError(f"b0_dirs has shape {directions.shape}, expected ({len(local_ppm)}, 3): one a field")
    grid.check(mask, "mask")
    if len(local_ppm) < least:
        raise InputError(f"{method} needs {least} orientations or more, got {len(local_ppm)}: add scans")
    if not mask.any():
        raise ReconstructionError("the mask is empty: give a mask that covers the object in all orientations")
    norms = np.linalg.norm(directions, axis=1)
    if not np.all(np.isfinite(norms)) or norms.min() == 0:
        raise InputError("b0_dirs must hold finite vectors that are not all zero")
    if not all(np.isfinite(field[mask]).all() for field in local_ppm):
        raise InputError("local_ppm is not finite in the mask: repair it or take those voxels out of the mask")
    return directions / norms[:, None]


def quadratic_rows(directions: np.ndarray) -> np.ndarray:
    """Rows (n, 6) of b^T T b over T's components."""
    return np.stack([directions[:, a] * directions[:, b] * (1.0 if a == b else 2.0) for a, b in PAIRS], axis=1)


def fit_quadratic_form(local_ppm: np.ndarray, directions: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    """T (6, x, y, z) float32 that fits best, zero outside the mask; InputError where it is not determined."""
    rows = quadratic_rows(directions)
    weakest = float(np.linalg.svd(rows, compute_uv=False)[-1]) / np.sqrt(len(rows))
    if weakest < LEAST_SINGULAR_VALUE:
        raise InputError(
            f"{method}: the orientations do not determine a tensor (smallest singular value {weakest:.3g}, "
            f"{LEAST_SINGULAR_VALUE} needed); turn the head further, about more than one axis"
        )
    form = np.tensordot(np.linalg.pinv(rows).astype(np.float32), local_ppm.astype(np.float32, copy=False), axes=1)
    return np.where(mask, form, np.float32(0))
