"""Preconditioned total field inversion.

Source: Liu, Kee, Zhou, Wang and Spincemaille 2017, 10.1002/mrm.26331.
    min_y 1/2 |W (D P y - f)|^2 + lambda sum c |g P y|,    x = P y,  P = 1 in the mask, `outside` beyond it
Sources everywhere, the strong ones outside reached sooner through P; total variation in the mask. c is zero on the
magnitude's strongest edges where a magnitude is given. What boundary values alone tell of the background is taken off
first (Zhou 2014, 10.1002/nbm.3064): it is harmonic in the mask, so sources outside explain it anyway.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import embed, extract
from qsm_runtime.kernels.differences import gradient
from qsm_runtime.single_step.newton import chosen_convex, solve
from qsm_runtime.single_step.prepare import finished, interior_field, require_positive
from qsm_runtime.single_step.split import solver_box


def tfi(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    outside: float = 3.0,
    edge_fraction: float = 0.3,
    outlier_sigmas: float = 6.0,
    steps: int = 8,
    cg_iterations: int = 20,
    magnitude: np.ndarray | None = None,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm, mean zero in the mask: float32 (x, y, z), zero outside.

    total_ppm       total field in ppm, float32 (x, y, z)
    mask            bool (x, y, z); nothing of it is lost, its outermost layer is continued from the inside
    regularisation  lambda (ppm mm), or "auto": from the noise of the field
    outside         P beyond the mask, > 0
    edge_fraction   share of voxels in the mask taken for edges of the magnitude, 0..1
    magnitude       float32 (echo, x, y, z)
    outlier_sigmas  residual, in robust standard deviations, from which a voxel's weight falls
    reliability     inverse standard deviation of the field in 1/ppm; voxels of 0 carry no data
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(outside=outside, steps=steps, cg_iterations=cg_iterations)
    require_positive(outlier_sigmas=outlier_sigmas)
    if not 0 <= edge_fraction < 1:
        raise UsageError(f"edge_fraction must lie in [0, 1), got {edge_fraction}")
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_convex(regularisation, field, weight, grid, reliability, record)
    penalty = np.full(grid.shape, chosen, np.float32)
    if magnitude is not None and edge_fraction > 0:
        combined = np.sqrt(np.square(magnitude, dtype=np.float32).sum(axis=0))
        slope = np.sqrt(np.square(gradient(combined, grid.voxel_mm)).sum(axis=0))
        penalty[slope > np.quantile(slope[mask], 1 - edge_fraction)] = 0
    box = solver_box(mask, grid.voxel_mm)
    empty = (np.empty(box.fft_shape, np.float32) for _ in range(4))
    f, w, c, m = (embed(a, box, e) for a, e in zip((field, weight, penalty, mask), empty, strict=True))
    inside = m > 0
    scaling = np.where(inside, np.float32(1), np.float32(outside))
    x = solve(
        f, w, inside, scaling, c, box, grid.voxel_mm, grid.b0_dir,
        tikhonov=0.0, outlier_sigmas=outlier_sigmas, steps=steps, cg_iterations=cg_iterations, progress=progress,
    )  # fmt: skip
    return finished(extract(x, box, grid.shape), mask, grid)
