"""Conjugate gradients, LSQR and LSMR, written once over arrays.

Operators are functions `apply(x, out)` that write A x into `out`. Arrays are contiguous float32 or complex64;
products are real, summed in float64, row by row, so the result does not depend on the number of threads.
A half spectrum stands for its mirror image too: give `spectrum_of`, the last size of the real array, and every
sample that has a mirror counts twice, which keeps operators that pass through real space self-adjoint.

CG      Hestenes and Stiefel 1952, 10.6028/jres.049.044
LSQR    Paige and Saunders 1982, 10.1145/355984.355989
LSMR    Fong and Saunders 2011, 10.1137/10079687X
"""

from collections.abc import Callable
from math import hypot, sqrt

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

Operator = Callable[[np.ndarray, np.ndarray], object]
REORDER = {"reassoc", "nsz", "contract"}  # lets the sums use vector registers; NaN still travels


@njit(parallel=True, cache=True, fastmath=REORDER)
def _dot(x, y, first, last, sums):
    for i in prange(x.shape[0]):
        total, ends = 0.0, 0.0
        for j in range(x.shape[1]):
            total += np.float64(x[i, j]) * np.float64(y[i, j])
        for j in range(first):
            ends += np.float64(x[i, j]) * np.float64(y[i, j])
        for j in range(last, x.shape[1]):
            ends += np.float64(x[i, j]) * np.float64(y[i, j])
        sums[i] = total - 0.5 * ends


@njit(parallel=True, cache=True, fastmath=REORDER)
def _step(x, r, p, q, alpha, first, last, sums):
    """x += alpha p, r -= alpha q, and the squares of r."""
    a = np.float32(alpha)
    for i in prange(x.shape[0]):
        total, ends = 0.0, 0.0
        for j in range(x.shape[1]):
            x[i, j] += a * p[i, j]
            r[i, j] -= a * q[i, j]
            total += np.float64(r[i, j]) * np.float64(r[i, j])
        for j in range(first):
            ends += np.float64(r[i, j]) * np.float64(r[i, j])
        for j in range(last, x.shape[1]):
            ends += np.float64(r[i, j]) * np.float64(r[i, j])
        sums[i] = total - 0.5 * ends


@njit(parallel=True, cache=True, fastmath=REORDER)
def _combine(x, y, a, b):
    """y = a x + b y."""
    a, b = np.float32(a), np.float32(b)
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = a * x[i, j] + b * y[i, j]


@njit(parallel=True, cache=True, fastmath=REORDER)
def _lsqr_step(x, w, v, a, b):
    """x += a w, then w = v - b w."""
    a, b = np.float32(a), np.float32(b)
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] += a * w[i, j]
            w[i, j] = v[i, j] - b * w[i, j]


@njit(parallel=True, cache=True, fastmath=REORDER)
def _lsmr_step(x, h_bar, h, v, a, b, c):
    """h_bar = h - a h_bar, x += b h_bar, h = v - c h."""
    a, b, c = np.float32(a), np.float32(b), np.float32(c)
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            h_bar[i, j] = h[i, j] - a * h_bar[i, j]
            x[i, j] += b * h_bar[i, j]
            h[i, j] = v[i, j] - c * h[i, j]


def _rows(x: np.ndarray) -> np.ndarray:
    """`x` seen as float32 rows along its last axis."""
    return x.reshape(-1, x.shape[-1]).view(np.float32) if x.ndim else x.reshape(1, 1).view(np.float32)


class Product:
    """Real inner product <x, y>; `spectrum_of` is the last size of the real array that a half spectrum stands for."""

    def __init__(self, spectrum_of: int | None = None) -> None:
        self.spectrum_of = spectrum_of

    def ends(self, columns: int) -> tuple[int, int, float]:
        """Columns [0, first) and [last, columns) have no mirror and count half; the factor counts the rest twice."""
        if self.spectrum_of is None:
            return 0, columns, 1.0
        return 2, columns - 2 if self.spectrum_of % 2 == 0 else columns, 2.0

    def __call__(self, x: np.ndarray, y: np.ndarray) -> float:
        x, y = _rows(x), _rows(y)
        first, last, factor = self.ends(x.shape[1])
        sums = np.empty(x.shape[0])
        _dot(x, y, first, last, sums)
        return factor * float(sums.sum())

    def step(self, x: np.ndarray, r: np.ndarray, p: np.ndarray, q: np.ndarray, alpha: float) -> float:
        """x += alpha p, r -= alpha q; returns <r, r>."""
        x, r, p, q = _rows(x), _rows(r), _rows(p), _rows(q)
        first, last, factor = self.ends(x.shape[1])
        sums = np.empty(x.shape[0])
        _step(x, r, p, q, float(alpha), first, last, sums)
        return factor * float(sums.sum())


def combine(x: np.ndarray, y: np.ndarray, a: float, b: float) -> None:
    """y = a x + b y, in place."""
    _combine(_rows(x), _rows(y), float(a), float(b))


def cg(
    apply: Operator,
    rhs: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    x0: np.ndarray | None = None,
    precondition: Operator | None = None,
    spectrum_of: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Solve A x = rhs for a self-adjoint, positive semi-definite A; returns (x, iterations).

    Stops when |rhs - A x| <= tolerance |rhs|. `precondition(r, out)` writes an approximation of A^-1 r.
    `apply` must keep its input. `rhs` and `x0` are not written; no more than `x` and three arrays like it are made.
    """
    product = Product(spectrum_of)
    x = np.zeros_like(rhs) if x0 is None else x0.astype(rhs.dtype, order="C", copy=True)
    r, q = np.array(rhs, order="C"), np.empty_like(rhs)
    if x0 is not None:
        apply(x, q)
        combine(q, r, -1.0, 1.0)
    target = tolerance**2 * product(np.ascontiguousarray(rhs), np.ascontiguousarray(rhs))
    del rhs  # gone, where the caller does not keep it
    rr = product(r, r)
    z = q if precondition is not None else r  # A p and the preconditioned residual are never needed at once
    if precondition is not None:
        precondition(r, z)
    p = z.copy()
    rz = product(r, z)
    for iteration in range(max_iterations):
        if rr <= target or rr == 0:
            return x, iteration
        apply(p, q)
        curvature = product(p, q)
        if not curvature > 0:  # nothing left that A can see
            return x, iteration
        rr = product.step(x, r, p, q, rz / curvature)
        if precondition is not None:
            precondition(r, z)
            rz, previous = product(r, z), rz
        else:
            rz, previous = rr, rz
        combine(z, p, 1.0, rz / previous)
        if progress is not None:
            progress((iteration + 1) / max_iterations)
    return x, max_iterations


class _Bidiagonal:
    """Golub-Kahan bidiagonalisation: beta u' = A v - alpha u, alpha v' = A^T u' - beta v."""

    def __init__(
        self, apply: Operator, adjoint: Operator, rhs: np.ndarray, x_like: np.ndarray, spectrum_of: int | None
    ) -> None:
        self.apply, self.adjoint, self.spectrum_of = apply, adjoint, spectrum_of
        self.u = np.array(rhs, order="C")
        del rhs  # gone, where the caller does not keep it
        self.work = np.empty_like(self.u)
        self.v, self.work_v = np.zeros_like(x_like), np.empty_like(x_like)
        self.beta = self._normalise(self.u)
        adjoint(self.u, self.v)
        self.alpha = self._normalise(self.v)

    def _normalise(self, x: np.ndarray) -> float:
        norm = sqrt(Product(self.spectrum_of if np.iscomplexobj(x) else None)(x, x))
        if norm > 0:
            combine(x, x, 0.0, 1.0 / norm)
        return norm

    def advance(self) -> None:
        self.apply(self.v, self.work)
        combine(self.work, self.u, 1.0, -self.alpha)
        self.beta = self._normalise(self.u)
        self.adjoint(self.u, self.work_v)
        combine(self.work_v, self.v, 1.0, -self.beta)
        self.alpha = self._normalise(self.v)


def lsqr(
    apply: Operator,
    adjoint: Operator,
    rhs: np.ndarray,
    x_like: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    residual: float = 0.0,
    spectrum_of: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Least squares min |A x - rhs| by LSQR from x = 0; returns (x, iterations).

    x_like gives the unknown's shape and dtype; `spectrum_of` speaks of whichever side is complex.
    Stops when |A^T r| <= tolerance |A| |r|, |r| <= tolerance |rhs| or |r| <= `residual`; |A| is the Frobenius norm of
    the bidiagonal.
    """
    g = _Bidiagonal(apply, adjoint, rhs, x_like, spectrum_of)
    del rhs
    x, w = np.zeros_like(x_like), g.v.copy()
    phi_bar, rho_bar, norm2, norm_rhs = g.beta, g.alpha, 0.0, g.beta
    for iteration in range(max_iterations):
        if g.alpha * g.beta == 0:
            return x, iteration
        norm2 += g.alpha**2
        g.advance()
        norm2 += g.beta**2
        rho = hypot(rho_bar, g.beta)
        c, s = rho_bar / rho, g.beta / rho
        theta, rho_bar, phi, phi_bar = s * g.alpha, -c * g.alpha, c * phi_bar, s * phi_bar
        _lsqr_step(_rows(x), _rows(w), _rows(g.v), phi / rho, theta / rho)
        if progress is not None:
            progress((iteration + 1) / max_iterations)
        if g.alpha * abs(c) <= tolerance * sqrt(norm2) or phi_bar <= max(tolerance * norm_rhs, residual):
            return x, iteration + 1
    return x, max_iterations


def lsmr(
    apply: Operator,
    adjoint: Operator,
    rhs: np.ndarray,
    x_like: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    spectrum_of: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Least squares min |A x - rhs| by LSMR from x = 0, in which |A^T r| falls steadily; returns (x, iterations).

    Stops when |A^T r| <= tolerance |A^T rhs|.
    """
    g = _Bidiagonal(apply, adjoint, rhs, x_like, spectrum_of)
    del rhs
    x, h, h_bar = np.zeros_like(x_like), g.v.copy(), np.zeros_like(x_like)
    alpha_bar, zeta_bar = g.alpha, g.alpha * g.beta
    rho, rho_bar, c_bar, s_bar = 1.0, 1.0, 1.0, 0.0
    target = tolerance * abs(zeta_bar)
    for iteration in range(max_iterations):
        if abs(zeta_bar) <= target or g.alpha == 0:
            return x, iteration
        g.advance()
        rho_old, rho = rho, hypot(alpha_bar, g.beta)
        c, s = alpha_bar / rho, g.beta / rho
        theta_new, alpha_bar = s * g.alpha, c * g.alpha
        rho_bar_old, theta_bar = rho_bar, s_bar * rho
        rho_bar = hypot(c_bar * rho, theta_new)
        c_bar, s_bar = c_bar * rho / rho_bar, theta_new / rho_bar
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        _lsmr_step(
            _rows(x), _rows(h_bar), _rows(h), _rows(g.v),
            theta_bar * rho / (rho_old * rho_bar_old), zeta / (rho * rho_bar), theta_new / rho,
        )  # fmt: skip
        if progress is not None:
            progress((iteration + 1) / max_iterations)
    return x, max_iterations
