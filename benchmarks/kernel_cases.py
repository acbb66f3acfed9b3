"""Each kernel's call on an input of its own, with its error against plain float64 numpy, SciPy or its own equation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qsm_runtime.grid import Grid

Prepared = tuple[Callable[[], Any], Callable[[Any], float]]


class Field(NamedTuple):
    """What every kernel works on: a grid of an FFT's shape, noise, and an ellipsoid mask."""

    grid: Grid
    x: np.ndarray
    mask: np.ndarray

    @classmethod
    def of(cls, grid: Grid) -> "Field":
        from qsm_runtime.kernels.fft import padded_shape

        shape = padded_shape(grid.shape)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        lines = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
        return cls(Grid(shape, grid.voxel_mm), x, np.asarray(sum(a * a for a in lines)) < 0.81)


def off(found: np.ndarray, true: np.ndarray) -> float:
    """|found - true| / |true|."""
    return float(np.linalg.norm(found.astype(float) - true) / np.linalg.norm(true))


def fft_pair(field: Field) -> Prepared:
    from qsm_runtime.kernels.fft import plan

    p = plan(field.x.shape)

    def call() -> np.ndarray:
        return p.inverse(p.forward(field.x))

    return call, lambda y: off(y * p.scale, field.x)


def copy(field: Field) -> Prepared:
    out = np.empty_like(field.x)

    def call() -> np.ndarray:
        np.copyto(out, field.x)
        return out

    return call, lambda y: off(y, field.x)


def _plain_dipole(grid: Grid) -> np.ndarray:
    kx, ky = (np.fft.fftfreq(n, v) for n, v in zip(grid.shape[:2], grid.voxel_mm[:2], strict=True))
    kz = np.fft.rfftfreq(grid.shape[2], grid.voxel_mm[2])
    k2 = kx[:, None, None] ** 2 + ky[:, None] ** 2 + kz**2
    k2[0, 0, 0] = 1
    d = 1 / 3 - kz**2 / k2
    d[0, 0, 0] = 0
    return d


def dipole_kernel(field: Field) -> Prepared:
    from qsm_runtime.kernels import dipole

    grid = field.grid
    return lambda: dipole.dipole_kernel(grid.shape, grid.voxel_mm, grid.b0_dir), lambda d: off(d, _plain_dipole(grid))


def convolve(field: Field) -> Prepared:
    from qsm_runtime.kernels import convolve as kernel
    from qsm_runtime.kernels.dipole import dipole_kernel as made
    from qsm_runtime.kernels.fft import plan

    p = plan(field.x.shape)
    d, out = made(p.shape, field.grid.voxel_mm, field.grid.b0_dir, p.scale), p.new_real()

    def check(y: np.ndarray) -> float:
        true = np.fft.irfftn(np.fft.rfftn(field.x.astype(float)) * _plain_dipole(field.grid), field.x.shape)
        return off(y, true)

    return lambda: kernel.convolve(field.x, d, p, out), check


def sphere_kernel(field: Field) -> Prepared:
    from qsm_runtime.kernels import sphere

    grid, radius_mm = field.grid, 5.0

    def check(s: np.ndarray) -> float:
        weights, ball = sphere.sphere_weights(grid.voxel_mm, radius_mm), np.zeros(grid.shape)
        for at in np.ndindex(weights.shape):
            for sign in np.ndindex(2, 2, 2):
                ball[tuple((1 - 2 * s) * n for s, n in zip(sign, at, strict=True))] = weights[at]
        return off(s, np.fft.rfftn(ball).real)

    return lambda: sphere.sphere_kernel(grid.shape, grid.voxel_mm, radius_mm), check


def distance(field: Field) -> Prepared:
    from qsm_runtime.kernels.distance import distance_inside

    def check(d: np.ndarray) -> float:
        from scipy.ndimage import distance_transform_edt

        return off(d, distance_transform_edt(field.mask, field.grid.voxel_mm))

    return lambda: distance_inside(field.mask, field.grid.voxel_mm), check


def erode(field: Field) -> Prepared:
    from qsm_runtime.kernels import morphology

    voxel_mm, radius_mm = field.grid.voxel_mm, 3.0

    def check(m: np.ndarray) -> float:
        from scipy.ndimage import distance_transform_edt

        true = distance_transform_edt(np.pad(field.mask, 1), voxel_mm)[1:-1, 1:-1, 1:-1] > radius_mm * (1 + 1e-6)
        return float((m != true).mean())

    return lambda: morphology.erode(field.mask, radius_mm, voxel_mm), check


def _plain_gradient(x: np.ndarray, voxel_mm: tuple[float, ...]) -> np.ndarray:
    return np.stack([(np.roll(x, -1, axis) - x) / v for axis, v in enumerate(voxel_mm)])


def gradient(field: Field) -> Prepared:
    from qsm_runtime.kernels import differences

    voxel_mm, out = field.grid.voxel_mm, np.empty((3, *field.x.shape), np.float32)
    return (
        lambda: differences.gradient(field.x, voxel_mm, out),
        lambda g: off(g, _plain_gradient(field.x.astype(float), voxel_mm)),
    )


def gradient_adjoint(field: Field) -> Prepared:
    from qsm_runtime.kernels import differences

    voxel_mm, out = field.grid.voxel_mm, np.empty_like(field.x)
    g = np.random.default_rng(1).standard_normal((3, *field.x.shape), np.float32)

    def check(y: np.ndarray) -> float:
        true = sum((np.roll(g[a].astype(float), 1, a) - g[a]) / v for a, v in enumerate(voxel_mm))
        return off(y, true)

    return lambda: differences.gradient_adjoint(g, voxel_mm, out), check


def total_variation(field: Field) -> Prepared:
    """Both loops of a TV iteration: the split's update, and the right-hand side of the next solve."""
    from qsm_runtime.kernels import split_tv

    steps = tuple(np.float32(1 / v) for v in field.grid.voxel_mm)
    free, weight = np.zeros(field.x.shape, np.uint8), np.ones(field.x.shape, np.float32)
    start = np.random.default_rng(1).standard_normal((3, *field.x.shape), np.float32)
    w, out, t = start.copy(), np.empty_like(field.x), np.float32(0.5)

    def call() -> np.ndarray:
        w[:] = start  # so that every run does the same
        split_tv.update_differences(field.x, w, t, weight, free, *steps, np.float32(1))
        split_tv.reflect_differences(w, t, weight, free, *steps, out)
        return out

    def clipped(v: np.ndarray) -> np.ndarray:
        return v * np.minimum(1, 0.5 / np.sqrt((v**2).sum(0)))

    def check(y: np.ndarray) -> float:
        updated = _plain_gradient(field.x.astype(float), field.grid.voxel_mm) + clipped(start.astype(float))
        r = updated - 2 * clipped(updated)
        return off(y, sum((np.roll(r[a], 1, a) - r[a]) / v for a, v in enumerate(field.grid.voxel_mm)))

    return call, check


def poisson(field: Field) -> Prepared:
    """-Laplacian u = rhs in the mask to a residual of 1e-5, the solver's set-up included."""
    from qsm_runtime.kernels.poisson import PoissonSolver

    rhs = np.where(field.mask, field.x, np.float32(0))

    def call() -> np.ndarray:
        return PoissonSolver(field.mask, field.grid.voxel_mm).solve(rhs, tolerance=1e-5)[0]

    def check(u: np.ndarray) -> float:
        u = u.astype(float)  # the ellipsoid keeps off the array's edge, so that rolling brings in zeros
        terms = ((2 * u - np.roll(u, 1, a) - np.roll(u, -1, a)) / v**2 for a, v in enumerate(field.grid.voxel_mm))
        return off(np.where(field.mask, sum(terms), 0), rhs)

    return call, check


def cg_step(field: Field) -> Prepared:
    """The vector work of one conjugate-gradient iteration, and the filling of its three vectors."""
    from qsm_runtime.kernels.cg import Product, combine

    product, q = Product(), np.roll(field.x, 1)
    x, r, p = np.zeros_like(field.x), np.zeros_like(field.x), np.zeros_like(field.x)

    def call() -> float:
        x[:], r[:], p[:] = 0, field.x, field.x
        curvature = product(p, q)
        rr = product.step(x, r, p, q, 0.1)
        combine(r, p, 1.0, 0.5)
        return curvature + rr + product(p, p)

    def check(total: float) -> float:
        a, b = field.x.astype(float).ravel(), q.astype(float).ravel()
        after = a - 0.1 * b
        true = a @ b + after @ after + np.sum((after + 0.5 * a) ** 2)
        return abs(total / true - 1)

    return call, check


KERNELS: dict[str, Callable[[Field], Prepared]] = {
    f.__name__: f
    for f in (
        fft_pair,
        copy,
        dipole_kernel,
        convolve,
        sphere_kernel,
        distance,
        erode,
        gradient,
        gradient_adjoint,
        total_variation,
        poisson,
        cg_step,
    )
}
