"""The field of a susceptibility map in free space, at any B0 direction, without padding the fine grid.

A convolution that wraps around is right but for the images of the source and for what lies beyond the box.
Both make a field that is smooth inside the box, so they are computed on blocks of some 4 mm and interpolated:

    field = D * chi (periodic, fine) + [ D_R * chi_far (blocks, padded) - D * chi (periodic, blocks) ]

D_R is the dipole cut off at reach R, D_R(k) = D(k) (1 - 3 j1(kR)/(kR)): no image can be nearer than R.
Source of the cut-off: Vico, Greengard, Ferrando 2016, 10.1016/j.jcp.2016.07.028.
"""

import numpy as np
from scipy import fft

from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import smooth_size
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.phantom.shapes import Upsampled, cubic_weights

PLANES = 16
Triple = tuple[int, int, int]
Vector = tuple[float, float, float]


def block_mean(fine: np.ndarray, block: Triple) -> np.ndarray:
    """Mean over blocks (float32); the shape must be divisible."""
    total = fine
    for axis in (0, 1, 2):  # adding whole slices an axis at a time is faster than one reduction over three axes
        view = [slice(None)] * 3
        parts = []
        for k in range(block[axis]):
            view[axis] = slice(k, None, block[axis])
            parts.append(total[tuple(view)])
        total = parts[0].astype(np.float32)
        for part in parts[1:]:
            total += part
    total *= np.float32(1 / (block[0] * block[1] * block[2]))
    return total


def _convolve(chi: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    threads = get_threads()
    spectrum = fft.rfftn(chi, workers=threads)
    spectrum *= kernel
    return fft.irfftn(spectrum, chi.shape, workers=threads, overwrite_x=True)


def _block_kernel(shape: Triple, voxel_mm: Vector, b0_dir: Vector, reach_mm: float | None) -> np.ndarray:
    """Dipole of blocks, smoothed by a Gaussian one block wide: far fields are harmonic and do not feel it."""
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(shape[:2], voxel_mm[:2], strict=True))
    kz = np.fft.rfftfreq(shape[2], voxel_mm[2])
    k2 = kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz[None, None, :] ** 2
    kernel = dipole_kernel(shape, voxel_mm, b0_dir) * np.exp(-2 * np.pi**2 * k2 * max(voxel_mm) ** 2)
    if reach_mm is not None:
        kr = np.maximum(2 * np.pi * np.sqrt(k2) * reach_mm, 1e-3)
        kernel *= 1 - 3 * (np.sin(kr) - kr * np.cos(kr)) / kr**3
    return kernel.astype(np.float32)


def free_space_field(
    chi: np.ndarray,
    voxel_mm: Vector,
    b0_dir: Vector,
    block: Triple,
    far: np.ndarray | None = None,
    start: Triple = (0, 0, 0),
) -> np.ndarray:
    """Field (float32) of `chi` (float32, zero where there is nothing), whose shape is a multiple of `block`.

    far    susceptibility of blocks on a larger domain, whose block `start` is the first of `chi`; the box's own
           blocks in it are filled here. None: nothing beyond the box.
    """
    blocks = block_mean(chi, block)
    size_mm = [float(v * b) for v, b in zip(voxel_mm, block, strict=True)]
    block_mm = (size_mm[0], size_mm[1], size_mm[2])
    inside = tuple(slice(s, s + n) for s, n in zip(start, blocks.shape, strict=True))
    far = np.zeros(blocks.shape, np.float32) if far is None else far.copy()
    far[inside] = blocks
    reach_mm = 1.3 * max(n * v for n, v in zip(blocks.shape, block_mm, strict=True))
    padded = [smooth_size(n + int(np.ceil(reach_mm / v)), even=True) for n, v in zip(far.shape, block_mm, strict=True)]
    wide = np.zeros(padded, np.float32)
    wide[tuple(slice(n) for n in far.shape)] = far
    free = _convolve(wide, _block_kernel((padded[0], padded[1], padded[2]), block_mm, b0_dir, reach_mm))[inside]
    shape = (blocks.shape[0], blocks.shape[1], blocks.shape[2])
    smooth = free - _convolve(blocks, _block_kernel(shape, block_mm, b0_dir, None))
    # block centres sit (block - 1) / 2 fine voxels in
    x, y, z = (cubic_weights(np.arange(n), (b - 1) / 2, b, m) for n, b, m in zip(chi.shape, block, shape, strict=True))
    correction = Upsampled(smooth, (x, y, z))
    field = _convolve(chi, dipole_kernel((chi.shape[0], chi.shape[1], chi.shape[2]), voxel_mm, b0_dir))
    for i in range(0, chi.shape[0], PLANES):
        field[i : i + PLANES] += correction.planes(slice(i, i + PLANES))
    return field
