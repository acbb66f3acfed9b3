"""Closed-form fields of simple sources: the yardstick for every dipole convolution here.

Source: Haacke et al. 1999, Magnetic Resonance Imaging, ch. 27; with the sphere of Lorentz taken out, dB/B0 is
sphere    inside 0; outside chi/3 (a/r)^3 (3 cos^2 theta - 1)
cylinder  inside chi/6 (3 cos^2 theta - 1); outside chi/2 sin^2 theta (a/r)^2 cos 2 phi
"""

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid

Vector = tuple[float, float, float]


def _offsets_mm(grid: Grid, centre: Vector) -> list[np.ndarray]:
    """Distances from `centre` (voxels, fractions allowed) along each axis in mm, ready to broadcast."""
    lines = [(np.arange(n) - c) * v for n, c, v in zip(grid.shape, centre, grid.voxel_mm, strict=True)]
    return list(np.meshgrid(*lines, indexing="ij", sparse=True))


def _along(offsets_mm: list[np.ndarray], axis: np.ndarray) -> np.ndarray:
    return sum(a * o for a, o in zip(axis, offsets_mm, strict=True))  # type: ignore[return-value]


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"{name} must be positive, got {value}")


def sphere_field_ppm(grid: Grid, centre: Vector, radius_mm: float, chi_ppm: float) -> np.ndarray:
    """Field (ppm, float32, grid shape) of a sphere of `chi_ppm`; `centre` in voxels."""
    _positive("radius_mm", radius_mm)
    offsets = _offsets_mm(grid, centre)
    r2 = sum(o * o for o in offsets)
    r2 = np.maximum(r2, 1e-30)
    cos2 = _along(offsets, np.asarray(grid.b0_dir)) ** 2 / r2
    outside = chi_ppm / 3 * (radius_mm / np.sqrt(r2)) ** 3 * (3 * cos2 - 1)
    return np.where(r2 <= radius_mm**2, 0, outside).astype(np.float32)


def cylinder_field_ppm(grid: Grid, centre: Vector, axis: Vector, radius_mm: float, chi_ppm: float) -> np.ndarray:
    """Field (ppm, float32, grid shape) of an endless cylinder along `axis` (mm) through `centre` (voxels)."""
    _positive("radius_mm", radius_mm)
    length = float(np.linalg.norm(axis))
    if not (np.isfinite(length) and length > 0):
        raise UsageError(f"axis must be a direction, got {axis}")
    unit = np.asarray(axis, float) / length
    b0 = np.asarray(grid.b0_dir)
    cos_theta = float(b0 @ unit)
    across = b0 - cos_theta * unit  # B0 in the cylinder's cross-section, of length sin theta
    offsets = _offsets_mm(grid, centre)
    rho2 = np.maximum(sum(o * o for o in offsets) - _along(offsets, unit) ** 2, 1e-30)
    # sin^2 theta cos 2 phi = 2 (across . rho)^2 / rho^2 - sin^2 theta
    shape = 2 * _along(offsets, across) ** 2 / rho2 - (1 - cos_theta**2)
    outside = chi_ppm / 2 * radius_mm**2 / rho2 * shape
    inside = chi_ppm / 6 * (3 * cos_theta**2 - 1)
    return np.where(rho2 <= radius_mm**2, inside, outside).astype(np.float32)
