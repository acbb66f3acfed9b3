"""Sphere kernels: the mean over a ball, which leaves a field without sources inside the ball as it is.

Source: Schweser 2011, 10.1016/j.neuroimage.2010.10.070 (spherical mean value, SMV).
continuous  S^(k) = 3 (sin q - q cos q) / q^3 with q = 2 pi |k| r
discrete    S^(k) = sum_n w_n cos(2 pi k.n), over the voxels whose centres lie within r

A sampled ball breaks the mean-value property, and the continuous transform rings beyond r, where there is no field
to average. So the weights of the sampled ball are moved, as little as possible (least squares), until the mean is
exact for every harmonic polynomial up to degree 3, 5 or 7, whichever the ball holds enough voxels for. The six face
neighbours always belong to the ball: below one voxel's width it turns into the seven-point Laplacian.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

DEGREE_RADII = ((1.0, 2), (2.0, 4), (3.0, 6))  # from this radius in (largest) voxels, exact through this even degree


def _even_harmonics(x: np.ndarray, y: np.ndarray, z: np.ndarray, degree: int) -> list[np.ndarray]:
    """A basis of the harmonic polynomials of `degree` that are even in x, in y and in z, at the given points.

    Those odd in an axis vanish by symmetry. Built from x^a y^b (a + b = degree) by the powers of z that cancel
    the Laplacian: h = sum_m (-1)^m z^2m / (2m)! (d_x^2 + d_y^2)^m x^a y^b.
    """
    basis = []
    for a in range(0, degree + 1, 2):
        terms = {(a, degree - a): 1.0}
        h, factorial = np.zeros(np.broadcast(x, y, z).shape), 1.0
        for m in range(degree // 2 + 1):
            factorial *= (2 * m) * (2 * m - 1) if m else 1.0
            for (p, q), c in terms.items():
                h = h + (-1) ** m * c * x**p * y**q * z ** (2 * m) / factorial
            plane_laplacian: dict[tuple[int, int], float] = {}
            for (p, q), c in terms.items():
                if p >= 2:
                    plane_laplacian[p - 2, q] = plane_laplacian.get((p - 2, q), 0.0) + c * p * (p - 1)
                if q >= 2:
                    plane_laplacian[p, q - 2] = plane_laplacian.get((p, q - 2), 0.0) + c * q * (q - 1)
            terms = plane_laplacian
        basis.append(h)
    return basis


def sphere_weights(voxel_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Weights of the ball's octant i, j, k >= 0: float64; a weight stands for all its mirror images.

    Summed over the mirror images they make 1. See the module's head for how they are found.
    """
    reach = [max(1, int(np.floor(radius_mm / v * (1 + 1e-6)))) for v in voxel_mm]
    i, j, k = np.meshgrid(*(np.arange(n + 1) for n in reach), indexing="ij")
    x, y, z = (n * v for n, v in zip((i, j, k), voxel_mm, strict=True))
    inside = (x**2 + y**2 + z**2 <= (radius_mm * (1 + 1e-6)) ** 2) | (i + j + k <= 1)
    x, y, z = (a[inside] / max(radius_mm, *voxel_mm) for a in (x, y, z))
    copies = np.prod([np.where(n[inside] > 0, 2.0, 1.0) for n in (i, j, k)], axis=0)

    rows, targets = [np.ones_like(x)], [1.0]
    for from_voxels, degree in DEGREE_RADII:
        if degree == 2 or radius_mm >= from_voxels * max(voxel_mm) * (1 - 1e-6):
            harmonics = _even_harmonics(x, y, z, degree)
            rows += harmonics
            targets += [0.0] * len(harmonics)
    ball = np.full(x.size, 1.0 / copies.sum())
    # min sum copies (w - ball)^2 subject to the rows: solved for v = sqrt(copies) (w - ball)
    constraint = np.array(rows) * np.sqrt(copies)
    residual = np.array(targets) - np.array(rows) @ (copies * ball)
    weights = np.zeros(inside.shape)
    weights[inside] = ball + (np.linalg.pinv(constraint, rcond=1e-10) @ residual) / np.sqrt(copies)
    return weights


def _cosines(n: int, reach: int) -> np.ndarray:
    """cos(2 pi k i / n) for k = 0..n//2 (rows) and i < reach, twice for i > 0 (both mirror images)."""
    k, i = np.arange(n // 2 + 1)[:, None], np.arange(reach)[None, :]
    return np.cos(2 * np.pi * ((k * i) % n) / n) * np.where(i > 0, 2.0, 1.0)


def sphere_quadrant(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], radius_mm: float, scale: float = 1.0
) -> np.ndarray:
    """Transform of the discrete ball at k >= 0, for it is even: float32 (nx//2+1, ny//2+1, nz//2+1), times `scale`.

    Three small matrix products instead of a Fourier transform; 1 at k = 0 (times scale).
    """
    weights = sphere_weights(voxel_mm, radius_mm) * scale
    cx, cy, cz = (_cosines(n, reach) for n, reach in zip(shape, weights.shape, strict=True))
    along_z = weights @ cz.T
    along_y = np.einsum("jb,abk->ajk", cy, along_z, optimize=True)
    return np.tensordot(cx.astype(np.float32), along_y.astype(np.float32), axes=1)


def sphere_kernel(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], radius_mm: float, scale: float = 1.0
) -> np.ndarray:
    """Transform of the discrete ball: float32 (nx, ny, nz//2+1), times `scale` (a plan's, to normalise)."""
    fold_x, fold_y = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape[:2])
    return sphere_quadrant(shape, voxel_mm, radius_mm, scale)[fold_x[:, None], fold_y[None, :]]


@njit(parallel=True, cache=True)
def multiply_quadrant(spectrum, quadrant, out):
    """out = spectrum * (the even filter whose k >= 0 part is `quadrant`); `out` may be `spectrum`."""
    nx, ny, nz = spectrum.shape
    for i in prange(nx):
        fold = min(np.int64(i), nx - np.int64(i))  # numba's prange counts in uint64
        for j in range(ny):
            row = quadrant[fold, min(j, ny - j)]
            for k in range(nz):
                out[i, j, k] = spectrum[i, j, k] * row[k]


def sphere_transform(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], radius_mm: float, scale: float = 1.0
) -> np.ndarray:
    """Transform of the continuous ball: float32 (nx, ny, nz//2+1), times `scale`; any radius above 0."""
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(shape[:2], voxel_mm[:2], strict=True))
    kz = np.fft.rfftfreq(shape[2], voxel_mm[2])
    q = 2 * np.pi * radius_mm * np.sqrt(kx[:, None, None] ** 2 + ky[:, None] ** 2 + kz**2)
    small = q < 1e-2
    q = np.where(small, 1.0, q)
    s = np.where(small, 1.0, 3 * (np.sin(q) - q * np.cos(q)) / q**3)
    return (scale * s).astype(np.float32)


def sphere_fits(
    mask: np.ndarray, distance_mm: np.ndarray, voxel_mm: tuple[float, float, float], radius_mm: float
) -> np.ndarray:
    """Voxels around which the whole ball of `sphere_weights` lies in the mask: bool.

    distance_mm  `distance.distance_inside(mask, voxel_mm)`, computed once for all radii
    """
    fits = distance_mm > radius_mm * (1 + 1e-6)
    return fits & six_neighbours(mask) if radius_mm < max(voxel_mm) else fits


def six_neighbours(mask: np.ndarray) -> np.ndarray:
    """Mask voxels whose six face neighbours lie in the mask too: bool. Beyond the array is outside."""
    inner = np.zeros_like(mask)
    core = (slice(1, -1),) * 3
    inner[core] = mask[core]
    for axis in range(3):
        for towards in (slice(None, -2), slice(2, None)):
            inner[core] &= mask[tuple(towards if a == axis else slice(1, -1) for a in range(3))]
    return inner
