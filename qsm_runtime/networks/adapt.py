"""What stands between a scan's arrays and a network's: values, sizes, voxels and the direction of B0. Arrays only.

Values      x -> (x - mean) / std and back; or first clipped at two percentiles and standardised
Voxels      band-limited (Fourier) resampling an axis: cut or zero-pad the spectrum; what was made finer comes back
            exactly. Wrapped phase goes by the parts of exp(i phase) (frame.py): its angles would ring at each wrap.
Rotation    cubic splines about the volume's centre (Unser 1999, 10.1109/79.799930); what it costs is measured on the
            field itself, there and back, and recorded.
Padding     to multiples of a size, at the end of each axis or on both sides
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import fft, ndimage

from qsm_runtime.errors import UsageError
from qsm_runtime.kernels.threads import get_threads

Triple = tuple[float, float, float]
Sizes = tuple[int, int, int]
PAD_MODES = {"constant": "constant", "edge": "edge", "reflect": "symmetric"}
LARGEST_EXTRA = 24  # voxels appended to an axis so that both samplings span the same length
ALIGNED = 1e-6  # cosine: B0 along an axis, nothing to rotate


def window(starts: Sequence[int], sizes: Sequence[int]) -> tuple[Any, ...]:
    """Index of a box in the last three axes."""
    return (..., *(slice(a, a + n) for a, n in zip(starts, sizes, strict=True)))


def affine(x: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """(x - mean) / std, float32; mean and std numbers or one a channel of (channel, x, y, z)."""
    mean, std = _a_channel(mean, x), _a_channel(std, x)
    return (x - mean) * (np.float32(1) / std)


def affine_inverse(x: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """x std + mean, float32."""
    return x * _a_channel(std, x) + _a_channel(mean, x)


def _a_channel(value: np.ndarray | float, x: np.ndarray) -> np.ndarray:
    value = np.asarray(value, np.float32)
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (x.ndim - 1))


def clipped(x: np.ndarray, low_pct: float, high_pct: float, within: np.ndarray | None = None) -> np.ndarray:
    """`x` between two of its percentiles (inside the bool mask `within`), mapped so that they become 0 and 1."""
    low, high = np.percentile(x if within is None else x[..., within], (low_pct, high_pct))
    out = np.clip(x, np.float32(low), np.float32(high))
    out -= np.float32(low)
    out *= np.float32(1 / (high - low) if high > low else 1)
    return out


def standardised(x: np.ndarray, low_pct: float, high_pct: float, within: np.ndarray | None = None) -> np.ndarray:
    """`x` clipped to two of its percentiles, less its mean (inside `within`), over its standard deviation."""
    low, high = np.percentile(x if within is None else x[..., within], (low_pct, high_pct))
    out = np.clip(x, np.float32(low), np.float32(high))
    values = out if within is None else out[..., within]
    mean, std = float(values.mean(dtype=float)), float(values.std(dtype=float))
    out -= np.float32(mean)
    out *= np.float32(1 / std if std > 0 else 1)
    return out


def padded_sizes(
    shape: Sizes, multiple: Sizes, smallest: Sizes = (1, 1, 1), fixed: Sizes | None = None
) -> tuple[int, int, int]:
    """Sizes of at least `shape` and `smallest` that are multiples; `fixed` where the network takes no other."""
    x, y, z = (
        fixed[a] if fixed is not None else -(-max(shape[a], smallest[a]) // multiple[a]) * multiple[a] for a in range(3)
    )
    return x, y, z


def pad(x: np.ndarray, sizes: Sizes, side: str = "end", mode: str = "constant") -> np.ndarray:
    """(..., x, y, z) grown to `sizes`: at the `end` of each axis or on `both` sides."""
    if mode not in PAD_MODES:
        raise UsageError(f"size.pad_mode: {mode!r} is none of {', '.join(PAD_MODES)}")
    before = padding_before(x.shape[-3:], sizes, side)
    widths = [(0, 0)] * (x.ndim - 3)
    widths += [(b, s - n - b) for b, s, n in zip(before, sizes, x.shape[-3:], strict=True)]
    if not any(w != (0, 0) for w in widths):
        return x
    return np.pad(x, widths, mode=PAD_MODES[mode])  # type: ignore[call-overload]


def padding_before(shape: tuple[int, ...], sizes: Sizes, side: str) -> tuple[int, int, int]:
    """Voxels that `pad` puts before the array on each axis."""
    if side not in ("end", "both"):
        raise UsageError(f"size.pad_side: {side!r} is neither 'end' nor 'both'")
    x, y, z = ((s - n) // 2 if side == "both" else 0 for s, n in zip(sizes, shape, strict=True))
    return x, y, z


def unpad(y: np.ndarray, shape: Sizes, side: str = "end") -> np.ndarray:
    """The part of `y` that `pad` started from; a view."""
    return y[window(padding_before(shape, y.shape[-3:], side), shape)]


class Resample(NamedTuple):
    """Sizes before (padded from the scan's) and after, and the voxel that results, mm."""

    before: Sizes
    after: Sizes
    voxel_mm: Triple


def resampling(shape: Sizes, voxel_mm: Triple, wanted_mm: Triple, tolerance: float = 0.01) -> Resample:
    """How to get from voxels of `voxel_mm` to `wanted_mm`; an axis within `tolerance` (a share) stays as it is.

    Both samplings of an axis span one length, n v = m w: the smallest extension that meets w to a thousandth is
    taken, or else the best one.
    """
    before, after, got = [], [], []
    for n, v, w in zip(shape, voxel_mm, wanted_mm, strict=True):
        if abs(v - w) <= tolerance * w:
            best = (n, n)
        else:
            best = min(
                ((k, max(1, round(k * v / w))) for k in range(n, n + LARGEST_EXTRA + 1)),
                key=lambda km: (max(1e-3, abs(km[0] * v / km[1] / w - 1)), km[0]),
            )
        before.append(best[0])
        after.append(best[1])
        got.append(v * best[0] / best[1])
    return Resample((before[0], before[1], before[2]), (after[0], after[1], after[2]), (got[0], got[1], got[2]))


def fourier(x: np.ndarray, sizes: Sizes) -> np.ndarray:
    """float32 (..., x, y, z) at `sizes` samples over the same lengths, the first where it was."""
    for axis, m in zip((-3, -2, -1), sizes, strict=True):
        n = x.shape[axis]
        if n == m:
            continue
        spectrum = np.moveaxis(fft.rfft(x, axis=axis, workers=get_threads()), axis, 0)
        wide = np.zeros((m // 2 + 1, *spectrum.shape[1:]), spectrum.dtype)
        half = min(n, m) // 2 + 1
        wide[:half] = spectrum[:half]
        if min(n, m) % 2 == 0:  # the Nyquist sample stands for both signs
            wide[half - 1] *= 2.0 if m < n else 0.5
        x = fft.irfft(np.moveaxis(wide, 0, axis), n=m, axis=axis, workers=get_threads())
        x *= np.float32(m / n)
    return np.ascontiguousarray(x)


def linear(x: np.ndarray, sizes: Sizes) -> np.ndarray:
    """As `fourier` by linear interpolation: float32, nothing overshoots; beyond the last sample its value is kept."""
    x = x.astype(np.float32, copy=False)
    for axis, m in zip((-3, -2, -1), sizes, strict=True):
        n = x.shape[axis]
        if n == m:
            continue
        at = np.minimum(np.arange(m) * (n / m), n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        part = (at - low).astype(np.float32).reshape(-1, *(1,) * (-axis - 1))
        x = np.take(x, low, axis) * (1 - part) + np.take(x, np.minimum(low + 1, n - 1), axis) * part
    return np.ascontiguousarray(x)


def resample(x: np.ndarray, sizes: Sizes, how: str) -> np.ndarray:
    """float32 or bool (..., x, y, z) at `sizes` samples; a mask is true where more than half of it is."""
    if x.shape[-3:] == tuple(sizes):
        return x
    if x.dtype == bool:
        return linear(x, sizes) > 0.5
    return (fourier if how == "fourier" else linear)(x, sizes)


def rotation_to_z(b0_dir: Triple) -> np.ndarray:
    """The smallest rotation (3x3) that takes the line of `b0_dir` to z; -B0 makes the same field as B0."""
    b = np.asarray(b0_dir, float)
    b = b / np.linalg.norm(b) * (1.0 if b[2] >= 0 else -1.0)
    axis = np.cross(b, (0.0, 0.0, 1.0))
    if np.linalg.norm(axis) < ALIGNED:
        return np.eye(3)
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + b[2])


class Rotation(NamedTuple):
    """Rotation about the centres of two volumes in mm: `matrix` takes directions of the first to the second."""

    matrix: np.ndarray
    before: Sizes
    after: Sizes
    voxel_before: Triple
    voxel_after: Triple


def rotation(matrix: np.ndarray, shape: Sizes, voxel_mm: Triple) -> Rotation:
    """The box that holds the rotated one. Voxels are mixed as the axes are: a quarter turn only permutes them."""
    v = np.asarray(voxel_mm)
    mixed = matrix**2 @ v
    sizes = np.ceil(np.abs(matrix) @ (np.asarray(shape) * v) / mixed - 1e-6).astype(int)
    voxel = (float(mixed[0]), float(mixed[1]), float(mixed[2]))
    return Rotation(matrix, shape, (int(sizes[0]), int(sizes[1]), int(sizes[2])), voxel_mm, voxel)


def rotate(x: np.ndarray, r: Rotation, *, order: int = 3) -> np.ndarray:
    """(..., x, y, z) float32 or bool in the rotated box; zero beyond the first box. A mask goes by order 1."""
    return _turn(x, r.matrix.T, r.before, r.after, r.voxel_before, r.voxel_after, order)


def rotate_back(y: np.ndarray, r: Rotation, *, order: int = 3) -> np.ndarray:
    """The inverse of `rotate`, but for what interpolation lost."""
    return _turn(y, r.matrix, r.after, r.before, r.voxel_after, r.voxel_before, order)


def _turn(x, matrix, source, target, voxel_source, voxel_target, order):
    """Voxel o of the target looks at S^-1 (matrix T (o - c_T)) + c_S, with S and T the voxels."""
    pull = matrix * np.asarray(voxel_target) / np.asarray(voxel_source)[:, None]
    centre_source, centre_target = (np.asarray(source) - 1) / 2, (np.asarray(target) - 1) / 2
    shift = centre_source - pull @ centre_target
    mask = x.dtype == bool
    flat = x.reshape(-1, *source)
    out = np.empty((len(flat), *target), np.float32)
    for one, into in zip(flat, out, strict=True):
        ndimage.affine_transform(
            one.astype(np.float32), pull, shift, target, output=into, order=1 if mask else order, mode="constant"
        )
    out = out.reshape(*x.shape[:-3], *target)
    return out > 0.5 if mask else out
