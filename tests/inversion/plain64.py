"""Float64 NumPy pieces of the inversions, each spelled out from its equation: no half spectra, no fused loops.

Shared by the reference tests; the grid is odd, anisotropic and oblique, and the weights differ from voxel to voxel.
"""

import itertools

import numpy as np
from scipy import ndimage

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import padded_shape

GRID = Grid((19, 23, 17), (1.0, 1.3, 1.7), (0.3, -0.2, 0.9))
MARGIN_MM = 16.0
RAD_PER_PPM = 2 * np.pi * 42.577478518 * 3 * 0.02  # at 3 T and 20 ms


def dipole(shape, voxel_mm, b0_dir):
    """1/3 - (k.b)^2/k^2 on the full spectrum; a Nyquist sample is the mean over both signs of its frequency."""
    k = np.meshgrid(*(np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_mm, strict=True)), indexing="ij")
    both = [np.where(np.abs(np.abs(a) * v - 0.5) < 1e-12, -1, 1) for a, v in zip(k, voxel_mm, strict=True)]
    total = np.zeros(shape)
    for flips in itertools.product((False, True), repeat=3):
        x = [a * s if flip else a for a, s, flip in zip(k, both, flips, strict=True)]
        k2 = sum(a * a for a in x)
        k2[0, 0, 0] = 1
        total += 1 / 3 - sum(b * a for a, b in zip(x, b0_dir, strict=True)) ** 2 / k2
    total[0, 0, 0] = 0
    return total / 8


def spectral(x, h):
    return np.fft.ifftn(np.fft.fftn(x) * h).real


def scene(noise=0.003, spread=5.0, seed=1):
    """(local field float32, mask, reliability) of two spheres in an ellipsoid.

    A fifth of the voxels is up to exp(spread) times as noisy as the rest, some are not to be trusted at all.
    """
    rng = np.random.default_rng(seed)
    at = [(i - (n - 1) / 2) * v for i, n, v in zip(np.indices(GRID.shape), GRID.shape, GRID.voxel_mm, strict=True)]
    size = [(n - 3) / 2 * v for n, v in zip(GRID.shape, GRID.voxel_mm, strict=True)]
    mask = sum((a / s) ** 2 for a, s in zip(at, size, strict=True)) <= 1
    chi = 0.15 * ((at[0] - 3) ** 2 + at[1] ** 2 + at[2] ** 2 <= 12) - 0.5 * (
        (at[0] + 3) ** 2 + (at[1] - 4) ** 2 + (at[2] - 2) ** 2 <= 6
    )
    wide = tuple(2 * n + 1 for n in GRID.shape)
    full = np.zeros(wide)
    full[tuple(slice(n) for n in GRID.shape)] = chi
    field = spectral(full, dipole(wide, GRID.voxel_mm, GRID.b0_dir))[tuple(slice(n) for n in GRID.shape)]
    deviation = noise * np.exp(rng.uniform(0, spread, GRID.shape) * (rng.uniform(size=GRID.shape) < 0.2))
    field = field + deviation * rng.standard_normal(GRID.shape)
    reliability = 1 / deviation
    reliability[rng.uniform(size=GRID.shape) < 0.02] = 0
    return np.where(mask, field, 0).astype(np.float32), mask, (reliability * mask).astype(np.float32)


class Problem:
    """The padded box of a scene with its field, mask, weights, noise and dipole."""

    def __init__(self, field, mask, reliability, saturation=64):
        lo, hi = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
        self.inner = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        margin = tuple(int(np.ceil(MARGIN_MM / v)) for v in GRID.voxel_mm)
        self.shape, self.low = padded_shape(tuple(hi - lo), margin), tuple(slice(n) for n in hi - lo)
        self.d = dipole(self.shape, GRID.voxel_mm, GRID.b0_dir)
        self.mask = self.pad(mask) > 0
        known = reliability.astype(float)
        trusted = mask & (known > 0)
        middle = np.median(known[trusted])
        self.noise = 1 / middle
        ratio = np.where(trusted, middle / (saturation * np.where(trusted, known, 1)), np.inf)
        self.w = self.pad(1 / np.sqrt(1 + ratio**2))
        self.f = self.pad(np.where(trusted, field, 0))
        self.stop = np.sqrt(0.5 * (self.w**2 * self.pad(1 / np.where(trusted, known, np.inf)) ** 2).sum())
        self.noise_to_signal = self.noise**2 * (4 / 45) / field[trusted].astype(float).var()
        self.steps = np.array(GRID.voxel_mm) / np.prod(GRID.voxel_mm) ** (1 / 3)

    def pad(self, x):
        out = np.zeros(self.shape)
        out[self.low] = x[self.inner]
        return out

    def back(self, x):
        """On the full grid, zero outside the mask."""
        out = np.zeros(GRID.shape)
        out[self.inner] = (x * self.mask)[self.low]
        return out

    def images(self, x):
        """What the periodic grid adds to the field of x in the mask's box: 4 mm blocks, less a box twice as wide."""
        factor = [
            max(d for d in range(1, max(1, int(4 / v)) + 1) if n % d == 0)
            for n, v in zip(self.shape, GRID.voxel_mm, strict=True)
        ]
        shape = [n // d for n, d in zip(self.shape, factor, strict=True)]
        voxel_mm = [d * v for d, v in zip(factor, GRID.voxel_mm, strict=True)]
        near, far = np.zeros(self.shape), np.zeros([2 * n for n in shape])
        near[self.low] = x[self.low]
        near = near.reshape([n for pair in zip(shape, factor, strict=True) for n in pair]).mean((1, 3, 5))
        corner = tuple(slice(n) for n in shape)
        far[corner] = near
        coarse = spectral(near, dipole(near.shape, voxel_mm, GRID.b0_dir))
        coarse -= spectral(far, dipole(far.shape, voxel_mm, GRID.b0_dir))[corner]
        at = [(np.arange(n) + 0.5) / d - 0.5 for n, d in zip(self.shape, factor, strict=True)]
        return ndimage.map_coordinates(coarse, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")

    def difference(self, x):
        return np.stack([(np.roll(x, -1, a) - x) / s for a, s in enumerate(self.steps)])

    def difference_adjoint(self, g):
        return sum((np.roll(g[a], 1, a) - g[a]) / s for a, s in enumerate(self.steps))

    def power(self):
        """Eigenvalues of g^T g."""
        axes = [2 * np.sin(np.pi * np.fft.fftfreq(n)) / s for n, s in zip(self.shape, self.steps, strict=True)]
        return axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2

    def least_squares(self, iterations, penalty, damping, start=0.0, w=None, field=None):
        """Preconditioned conjugate gradients on (S D W^2 D S + damping) x = S D W^2 f, by steps away from `start`."""
        start, w = start * self.mask, self.w if w is None else w
        field = self.f if field is None else field

        def apply(x):
            return self.mask * spectral(w**2 * spectral(self.mask * x, self.d), self.d) + damping * x

        def precondition(r):
            return self.mask * spectral(self.mask * r, 1 / (self.d**2 + penalty + damping))

        rhs = self.mask * spectral(w**2 * field, self.d) - apply(start)
        x, r = np.zeros(self.shape), rhs.copy()
        z = precondition(r)
        p, rz = z, (r * z).sum()
        for _ in range(iterations):
            if np.linalg.norm(r) <= 1e-3 * np.linalg.norm(rhs):
                break
            q = apply(p)
            alpha = rz / (p * q).sum()
            x, r = x + alpha * p, r - alpha * q
            z = precondition(r)
            rz, before = (r * z).sum(), rz
            p = z + rz / before * p
        return start + x

    def outlier_factor(self, residual, w):
        """MERIT: what W falls by, the square of the residual beyond six robust standard deviations."""
        residual = np.abs(residual) * w
        limit = 6 * max(1.4826 * np.median(residual[w > 0]), self.noise)
        return np.where(residual > limit, limit / np.maximum(residual, limit), 1) ** 2


class Admm:
    """min phi(D x - f) + lambda |g x|_1, x = 0 outside the mask: every variable and multiplier by its own name."""

    GRADIENT, DATA, SUPPORT = 100.0, 0.2, 3e-3  # penalties; the first over lambda

    def __init__(self, problem, field=None, edges=None):
        self.p = problem
        self.w2 = problem.w**2
        self.measured = self.f = np.where(self.w2 > 0, problem.f if field is None else field, 0)
        self.edges = np.zeros((3, *problem.shape), bool) if edges is None else edges
        self.x = spectral(self.f, problem.d / (problem.d**2 + 1e-2))
        self.y = spectral(self.x, problem.d)
        self.u_z, self.u_y, self.u_p = np.zeros((3, *problem.shape)), np.zeros(problem.shape), np.zeros(problem.shape)

    def shrink(self, g, threshold):
        """Isotropic soft threshold over the components that are no edges; edges stay as they are."""
        counted = np.where(self.edges, 0, g)
        length = np.maximum(np.sqrt((counted**2).sum(0)), 1e-30)
        return np.where(self.edges, g, g * np.maximum(0, 1 - threshold / length))

    def run(self, data_step, lam, iterations):
        problem, rho = self.p, self.GRADIENT * lam
        below = self.DATA * problem.d**2 + rho * problem.power() + self.SUPPORT
        inner = problem.pad(np.ones(GRID.shape)) > 0
        for _ in range(iterations):
            q = self.y + self.u_y
            v = np.where(inner, data_step(q, self.f, self.w2, self.DATA), q)
            self.u_y = q - v
            g = problem.difference(self.x) + self.u_z
            z = self.shrink(g, lam / rho)
            self.u_z = g - z
            p = np.where(problem.mask, self.x + self.u_p, 0)
            self.u_p = self.x + self.u_p - p
            above = rho * problem.difference_adjoint(z - self.u_z) + self.SUPPORT * (p - self.u_p)
            spectrum = (np.fft.fftn(above) + self.DATA * problem.d * np.fft.fftn(v - self.u_y)) / below
            self.x, self.y = np.fft.ifftn(spectrum).real, np.fft.ifftn(problem.d * spectrum).real

    def reweight(self):
        """The level by least squares, in free space; then the images' field; then the outliers."""
        mask = self.p.mask.astype(float)
        edge, images, of_mask = spectral(mask, self.p.d), self.p.images(self.x), self.p.images(mask)
        free = edge - of_mask
        level = (self.w2 * free * (self.measured + images - self.y)).sum() / (self.w2 * free**2).sum()
        self.x, self.y = self.x + level * mask, self.y + level * edge
        self.f = np.where(self.w2 > 0, self.measured + images + level * of_mask, 0)
        self.w2 = self.w2 * self.p.outlier_factor(self.y - self.f, np.sqrt(self.w2)) ** 2

    def result(self):
        return self.p.back(self.x)


def squares(q, f, w2, r):
    """argmin_v 1/2 w2 (v - f)^2 + r/2 (v - q)^2."""
    return (w2 * f + r * q) / (w2 + r)


def close(got, want, share):
    """Everywhere within `share` of the largest value, which must not be nothing. Seen in practice: below 1e-5."""
    largest = np.abs(want).max()
    assert largest > 0.02

    np.testing.assert_allclose(got, want, rtol=0, atol=share * largest)
