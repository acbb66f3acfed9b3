"""Shapes as signed distances (mm, positive inside), random textures, and cubic interpolation along the axes.

Distances become volume fractions of a voxel, so that edges are smooth and no staircase is simulated.
"""

import numpy as np
from scipy import fft, ndimage, sparse

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def ellipsoid(p: Points, centre: np.ndarray, radii: np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    """First-order distance to an ellipsoid's surface; `turn` (3, 3) has its axes as rows."""
    q = [a - c for a, c in zip(p, centre, strict=True)]
    if turn is not None:
        q = [row[0] * q[0] + row[1] * q[1] + row[2] * q[2] for row in turn]
    k0 = np.sqrt(sum((a / r) ** 2 for a, r in zip(q, radii, strict=True)))
    k1 = np.sqrt(sum((a / r**2) ** 2 for a, r in zip(q, radii, strict=True)))
    return k0 * (1 - k0) / np.maximum(k1, 1e-6) + np.where(k0 < 1e-3, min(radii), 0)


def capsule(p: Points, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> np.ndarray:
    """Distance to a rod from `a` to `b` whose radius runs linearly."""
    d = np.asarray(b, float) - a
    t = sum((x - u) * v for x, u, v in zip(p, a, d, strict=True)) / float(d @ d)
    t = np.clip(t, 0, 1)
    r2 = sum((x - u - t * v) ** 2 for x, u, v in zip(p, a, d, strict=True))
    return radius_a + (radius_b - radius_a) * t - np.sqrt(r2)


def union(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Smooth maximum of two distances, rounded over `blend` mm."""
    h = np.maximum(blend - np.abs(a - b), 0)
    return np.maximum(a, b) + h * h / (4 * blend)


def rotation(angles_rad: np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z."""
    out = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def cubic_weights(at: np.ndarray, start: float, step: float, count: int, wrap: int = 0) -> sparse.csr_array:
    """Catmull-Rom matrix (at.size, count) from samples at start + step i; float32, edges repeat.

    wrap: a period in samples, where the samples are periodic.
    """
    position = (np.asarray(at, float) - start) / step
    first = np.floor(position).astype(int)
    t = position - first
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    columns = np.stack([first + k - 1 for k in range(4)])
    columns = columns % wrap if wrap else np.clip(columns, 0, count - 1)
    rows = np.tile(np.arange(position.size), 4)
    entries = (np.concatenate(taps).astype(np.float32), (rows, columns.ravel()))
    return sparse.csr_array(entries, shape=(position.size, count))


class Upsampled:
    """A float32 volume, to be read at the points of a finer grid a few planes at a time: one matrix an axis."""

    def __init__(
        self, values: np.ndarray, weights: tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array]
    ) -> None:
        self.weights = weights
        nx, ny, nz = values.shape
        columns = np.ascontiguousarray(np.reshape(values, (nx * ny, nz)).T, np.float32)
        self.columns = np.ascontiguousarray((weights[2] @ columns).T).reshape(nx, -1)
        self.size = ny

    def planes(self, where: slice) -> np.ndarray:
        """The fine planes `where` along x."""
        rows = self.weights[0][where] @ self.columns
        return np.stack([self.weights[1] @ row.reshape(self.size, -1) for row in rows])


class Noise:
    """A random function of position with unit variance, the same at any resolution.

    A periodic lattice of white noise, filtered to wavelengths about `wavelength_mm` (`band` its relative width).
    """

    def __init__(self, rng: np.random.Generator, wavelength_mm: float, band: float = 0.25, samples: int = 48) -> None:
        self.step_mm = wavelength_mm / 6
        self.samples = samples
        k, half = np.fft.fftfreq(samples, self.step_mm), np.fft.rfftfreq(samples, self.step_mm)
        radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + half[None, None, :] ** 2) * wavelength_mm
        passed = np.exp(-0.5 * ((radius - 1) / band) ** 2).astype(np.float32)
        spectrum = fft.rfftn(rng.standard_normal((samples,) * 3, np.float32)) * passed
        lattice = fft.irfftn(spectrum, (samples,) * 3)
        self.lattice = (lattice / lattice.std(dtype=np.float64)).astype(np.float32)

    def at(self, p: Points) -> np.ndarray:
        """Values at any points (three arrays that broadcast)."""
        where = np.stack(np.broadcast_arrays(*p), dtype=np.float32) / np.float32(self.step_mm)
        return ndimage.map_coordinates(self.lattice, where, order=1, mode="grid-wrap", output=np.float32)

    def on(self, lines: Points) -> Upsampled:
        """Values on the grid of three coordinate lines."""
        n = self.samples
        x, y, z = (cubic_weights(line, 0, self.step_mm, n, wrap=n) for line in lines)
        return Upsampled(self.lattice, (x, y, z))
