"""Phase as unit phasors: wrapping, Hermitian products, and smoothing that never has to unwrap.

Smooth phase (a receive offset) is found on blocks of a few millimetres, smoothed there and interpolated back:
the same answer as smoothing every voxel, at the cost of one pass over memory.
"""

import numpy as np
from numba import njit, prange
from scipy.ndimage import gaussian_filter

from qsm_runtime.kernels import threads  # noqa: F401

TWO_PI = 2.0 * np.pi


@njit(inline="always")
def wrap(phase_rad):
    """The representative of `phase_rad` in [-pi, pi]."""
    return phase_rad - TWO_PI * np.rint(phase_rad / TWO_PI)


def phase_difference(later_rad: np.ndarray, earlier_rad: np.ndarray) -> np.ndarray:
    """Angle of the Hermitian product S2 conj(S1): wrapped difference of two phase volumes, float32."""
    difference = later_rad - earlier_rad
    turns = np.rint(difference * np.float32(1 / TWO_PI))
    turns *= np.float32(TWO_PI)
    difference -= turns
    return difference


@njit(parallel=True, cache=True)
def _block_phasors(phase_rad, predicted_rad, factor, weight, mask, block):
    """Mean over blocks of weight * exp(i (phase - factor * predicted)) inside the mask."""
    nx, ny, nz = phase_rad.shape
    bx, by, bz = block
    shape = ((nx + bx - 1) // bx, (ny + by - 1) // by, (nz + bz - 1) // bz)
    out = np.zeros(shape, np.complex64)
    for p in prange(shape[0]):
        for i in range(p * bx, min(nx, (p + 1) * bx)):
            for j in range(ny):
                for k in range(nz):
                    if mask[i, j, k]:
                        angle = phase_rad[i, j, k] - factor * predicted_rad[i, j, k]
                        out[p, j // by, k // bz] += weight[i, j, k] * np.complex64(
                            complex(np.cos(angle), np.sin(angle))
                        )
    return out


def block_phasors(
    phase_rad: np.ndarray,
    predicted_rad: np.ndarray,
    factor: float,
    weight: np.ndarray,
    mask: np.ndarray,
    block: tuple[int, int, int],
) -> np.ndarray:
    """Sums over blocks of weight * exp(i (phase - factor * predicted)) inside the mask: complex64, block grid."""
    return _block_phasors(phase_rad, predicted_rad, np.float32(factor), weight, mask, block)


def smooth_phasors(blocks: np.ndarray, trend_rad: np.ndarray, sigma_blocks: tuple[float, float, float]) -> np.ndarray:
    """Unit phasors of the smooth part of `blocks`, complex64: a smooth trend in rad, and the Gaussian mean of what
    the trend leaves over.

    A Gaussian window is one-sided at the mask's edge and biased there where the phase has a slope; the trend takes
    the slope out first.
    """
    rest = blocks * np.exp(-1j * trend_rad)
    rest = gaussian_filter(rest.real, sigma_blocks) + 1j * gaussian_filter(rest.imag, sigma_blocks)
    size = np.abs(rest)
    rest = np.where(size > 0, rest / np.maximum(size, 1e-30), 1)
    return (rest * np.exp(1j * trend_rad)).astype(np.complex64)


def polynomial_trend(blocks: np.ndarray, start_rad: np.ndarray, order: int) -> np.ndarray:
    """The polynomial in x, y, z of total degree `order` that fits the angle of `blocks`, rad, on their grid.

    start_rad is an unwrapped angle of the blocks. Weighted by the blocks' size; after a first fit the angles are
    taken to the branch nearest the polynomial, and blocks more than a radian off are left out.
    """
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in blocks.shape), indexing="ij")
    powers = [p for p in np.ndindex(order + 1, order + 1, order + 1) if sum(p) <= order]
    powers = [p for p in powers if all(n > 1 or q == 0 for n, q in zip(blocks.shape, p, strict=True))]
    terms = np.stack([np.prod([x**q for x, q in zip(axes, p, strict=True)], axis=0).ravel() for p in powers], axis=1)
    weight = np.abs(blocks).ravel().astype(float)
    used = weight > 0
    terms_used, weight, phasors = terms[used], weight[used], blocks.ravel()[used]
    target = start_rad.ravel()[used].astype(float)
    for _ in range(4):
        matrix, right = _normal_equations(terms_used, weight, target)
        coefficients = np.linalg.lstsq(matrix, right, rcond=1e-10)[0]
        fitted = _sum_of_terms(terms_used, coefficients)
        off = np.angle(phasors * np.exp(-1j * fitted))
        target = fitted + off
        weight = np.abs(phasors) * (np.abs(off) < 1.0)
    return _sum_of_terms(terms, coefficients).reshape(blocks.shape)


# loops of our own: what a BLAS gives depends on how many threads it found
@njit(cache=True)
def _normal_equations(terms, weight, target):
    """A^T W A and A^T W y of float64 rows A, weights W and targets y."""
    count, m = terms.shape
    matrix, right = np.zeros((m, m)), np.zeros(m)
    for i in range(count):
        for j in range(m):
            weighted = weight[i] * terms[i, j]
            right[j] += weighted * target[i]
            for k in range(j + 1):
                matrix[j, k] += weighted * terms[i, k]
    for j in range(m):
        for k in range(j):
            matrix[k, j] = matrix[j, k]
    return matrix, right


@njit(cache=True)
def _sum_of_terms(terms, coefficients):
    out = np.zeros(len(terms))
    for i in range(len(terms)):
        for j in range(len(coefficients)):
            out[i] += terms[i, j] * coefficients[j]
    return out


@njit(parallel=True, cache=True)
def subtract_phasor(phase_rad, mask, blocks, block, out):
    """out = wrapped phase minus the angle of `blocks`, interpolated linearly between block centres; 0 outside."""
    nx, ny, nz = phase_rad.shape
    mx, my, mz = blocks.shape
    ny_low, ny_part = np.empty(ny, np.int64), np.empty(ny, np.float32)
    nz_low, nz_part = np.empty(nz, np.int64), np.empty(nz, np.float32)
    for j in range(ny):
        y = min(max((j + 0.5) / block[1] - 0.5, 0.0), my - 1.0)
        ny_low[j] = min(int(y), max(my - 2, 0))
        ny_part[j] = y - ny_low[j]
    for k in range(nz):
        z = min(max((k + 0.5) / block[2] - 0.5, 0.0), mz - 1.0)
        nz_low[k] = min(int(z), max(mz - 2, 0))
        nz_part[k] = z - nz_low[k]
    for i in prange(nx):
        x = min(max((i + 0.5) / block[0] - 0.5, 0.0), mx - 1.0)
        p = min(int(x), max(mx - 2, 0))
        fx = np.float32(x - p)
        p1 = min(p + 1, mx - 1)
        line = np.empty(mz, np.complex64)
        for j in range(ny):
            q, fy = ny_low[j], ny_part[j]
            q1 = min(q + 1, my - 1)
            for r in range(mz):
                low = blocks[p, q, r] * (1 - fx) + blocks[p1, q, r] * fx
                high = blocks[p, q1, r] * (1 - fx) + blocks[p1, q1, r] * fx
                line[r] = low * (1 - fy) + high * fy
            for k in range(nz):
                if not mask[i, j, k]:
                    out[i, j, k] = 0
                    continue
                r, fz = nz_low[k], nz_part[k]
                value = line[r] * (1 - fz) + line[min(r + 1, mz - 1)] * fz
                out[i, j, k] = wrap(phase_rad[i, j, k] - np.float32(np.arctan2(value.imag, value.real)))
