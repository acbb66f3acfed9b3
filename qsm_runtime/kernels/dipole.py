"""The unit dipole: what one ppm of susceptibility does to the field, as a half-spectrum filter.

Source: Marques and Bowtell 2005, 10.1002/cmr.b.20034; Salomir 2003, 10.1002/cmr.b.10083.
k-space   D(k) = 1/3 - (k.b)^2 / |k|^2, D(0) = 0 (the sphere of Lorentz is taken out)
Green     d(r) = (3 cos^2 theta - 1) / (4 pi |r|^3) times the voxel's volume, d(0) = 0
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.fft import plan


@njit(parallel=True, cache=True, error_model="numpy")
def _dipole(kx, ky, kz, bx, by, bz, scale, nyquist_x, nyquist_y, nyquist_z):
    out = np.empty((kx.size, ky.size, kz.size), np.float32)
    for i in prange(kx.size):
        for j in range(ky.size):
            for k in range(kz.size):
                # a Nyquist sample stands for +k and -k at once: a real field needs the mean over both signs
                total, count = 0.0, 0
                for sx in range(2 if i == nyquist_x else 1):
                    for sy in range(2 if j == nyquist_y else 1):
                        for sz in range(2 if k == nyquist_z else 1):
                            x, y, z = kx[i] * (1 - 2 * sx), ky[j] * (1 - 2 * sy), kz[k] * (1 - 2 * sz)
                            k2 = x * x + y * y + z * z
                            if k2 > 0:
                                kb = x * bx + y * by + z * bz
                                total += 1.0 / 3.0 - kb * kb / k2
                            count += 1
                out[i, j, k] = scale * total / count
    return out


def dipole_kernel(
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    b0_dir: tuple[float, float, float],
    scale: float = 1.0,
) -> np.ndarray:
    """Continuous dipole sampled in k-space: float32 (nx, ny, nz//2+1), times `scale` (a plan's, to normalise)."""
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(shape[:2], voxel_mm[:2], strict=True))
    kz = np.fft.rfftfreq(shape[2], voxel_mm[2])
    nyquist_x, nyquist_y, nyquist_z = (n // 2 if n % 2 == 0 else -1 for n in shape)
    bx, by, bz = (float(b) for b in b0_dir)
    return _dipole(kx, ky, kz, bx, by, bz, float(scale), nyquist_x, nyquist_y, nyquist_z)


@njit(parallel=True, cache=True, error_model="numpy")
def _green(out, vx, vy, vz, bx, by, bz):
    nx, ny, nz = out.shape
    volume = vx * vy * vz / (4.0 * np.pi)
    for i in prange(nx):
        x = vx * (i if i <= nx // 2 else i - nx)
        for j in range(ny):
            y = vy * (j if j <= ny // 2 else j - ny)
            for k in range(nz):
                z = vz * (k if k <= nz // 2 else k - nz)
                r2 = x * x + y * y + z * z
                if r2 == 0:
                    out[i, j, k] = 0
                else:
                    zb = x * bx + y * by + z * bz
                    out[i, j, k] = volume * (3.0 * zb * zb / r2 - 1.0) / (r2 * np.sqrt(r2))


def green_kernel(
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    b0_dir: tuple[float, float, float],
    scale: float = 1.0,
) -> np.ndarray:
    """Transform of the spatially sampled dipole: float32 (nx, ny, nz//2+1), times `scale`.

    On an array padded to twice the object it gives the free-space field, without periodic images.
    """
    p = plan(shape)
    _green(p.real, *(float(v) for v in voxel_mm), *(float(b) for b in b0_dir))
    return np.ascontiguousarray(p.forward().real * np.float32(scale))
