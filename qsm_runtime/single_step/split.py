"""ADMM for  min_x 1/2 |W (A x - f)|^2 + lambda R(g x)  with differences counted inside the mask alone.

Both A x and g x are split off, so that x has a closed form in k-space; a mask in W or in g costs nothing then.
Data (`Fields`) is one or several filters A of the dipole; priors are TotalVariation and GeneralisedVariation, both with
weights c = knee / (knee + |g x|) that are renewed on the way. The loops, and what one array holds of each split, are in
kernels/split_tv and split_tgv.
"""

from typing import Protocol

import numpy as np

from qsm_runtime.kernels import fft, split_tgv
from qsm_runtime.kernels import split_tv as loops
from qsm_runtime.kernels.convolve import Box, box_of, embed, extract, multiply
from qsm_runtime.kernels.differences import gradient_power
from qsm_runtime.kernels.fft import Plan

MARGIN_MM = 10.0  # free sources around the mask's box
RHO_DATA = 0.1  # multiplier step of v = A x, the weights W being about 1
RHO_TV_PER_LAMBDA = 40.0  # of z = g x: thresholds start at 0.025 ppm/mm, about the slope at an edge between tissues
RELAXATION = np.float32(1.6)
RENEW_EVERY = 4  # iterations between renewals of the weights
RENEW_AFTER = 8  # before that a residual tells how far the solution is, not what the model cannot explain
ROBUST = 1.4826  # standard deviation over median magnitude, Gaussian


def solver_box(mask: np.ndarray, voxel_mm: tuple[float, float, float]) -> Box:
    """The mask's box and a margin for sources outside it."""
    nx, ny, nz = (int(np.ceil(MARGIN_MM / v)) for v in voxel_mm)
    return box_of(mask, (nx, ny, nz))


class Prior(Protocol):
    """A penalty on g x and its split; `free` marks differences that do not count."""

    def begin(self, x: np.ndarray) -> None: ...
    def reflect(self, out: np.ndarray) -> None: ...
    def update(self, x: np.ndarray) -> None: ...
    def renew(self, x: np.ndarray) -> None: ...


class TotalVariation:
    """R = sum c |g x|."""

    def __init__(self, mask: np.ndarray, box: Box, voxel_mm: tuple[float, float, float], knee: float) -> None:
        self.free = np.empty(box.fft_shape, np.uint8)
        loops.free_differences(embed(mask, box, np.empty(box.fft_shape, np.float32)) > 0, self.free)
        hx, hy, hz = (np.float32(1.0 / v) for v in voxel_mm)
        self.steps = hx, hy, hz
        self.knee, self.threshold = np.float32(knee), np.float32(1.0 / RHO_TV_PER_LAMBDA)
        self.weight = np.ones(box.fft_shape, np.float32)
        self.w = np.zeros((3, *box.fft_shape), np.float32)

    def begin(self, x: np.ndarray) -> None:
        loops.sparsity_weight(x, self.free, *self.steps, self.knee, self.weight)
        loops.update_differences(x, self.w, np.float32(0), self.weight, self.free, *self.steps, np.float32(1))

    def reflect(self, out: np.ndarray) -> None:
        loops.reflect_differences(self.w, self.threshold, self.weight, self.free, *self.steps, out)

    def update(self, x: np.ndarray) -> None:
        loops.update_differences(x, self.w, self.threshold, self.weight, self.free, *self.steps, RELAXATION)

    def renew(self, x: np.ndarray) -> None:
        loops.sparsity_weight(x, self.free, *self.steps, self.knee, self.weight)


class GeneralisedVariation(TotalVariation):
    """R = min_s sum c |g x - s| + ratio |E s|, ratio in mm."""

    def __init__(
        self, mask: np.ndarray, box: Box, voxel_mm: tuple[float, float, float], knee: float, ratio_mm: float
    ) -> None:
        super().__init__(mask, box, voxel_mm, knee)
        self.bend = np.float32(ratio_mm * self.threshold)
        self.s, self.s_bar = np.zeros((2, 3, *box.size), np.float32)  # what lies beyond the mask's box is free
        self.e = np.zeros((6, *box.size), np.float32)

    def reflect(self, out: np.ndarray) -> None:
        split_tgv.reflect_first(self.w, self.s, self.threshold, self.weight, self.free, *self.steps, out)

    def update(self, x: np.ndarray) -> None:
        split_tgv.update_first(x, self.w, self.s, self.threshold, self.weight, self.free, *self.steps, RELAXATION)
        split_tgv.update_slope(self.w, self.s, self.s_bar, self.e, self.threshold, self.weight, self.free, *self.steps)
        split_tgv.update_bend(self.s_bar, self.e, self.bend, self.free, *self.steps)


def _median_residual(ax: np.ndarray, f: np.ndarray, w: np.ndarray) -> float:
    """Median of |w (ax - f)| over every second voxel an axis that has weight."""
    ax, f, w = (a[::2, ::2, ::2] for a in (ax, f, w))
    known = w > 0
    return float(np.median(np.abs(w * (ax - f))[known])) if known.any() else 0.0


class Fields:
    """Splits v_i = A_i x of fields f_i with weights W_i, all on the box; A_i = filters[i], real and even in k-space."""

    def __init__(
        self, filters: list[np.ndarray], fields: list[np.ndarray], weights: list[np.ndarray], box: Box, sigmas: float
    ) -> None:
        self.filters, self.sigmas = filters, sigmas
        self.f, self.w = ([embed(a, box, np.empty(box.fft_shape, np.float32)) for a in b] for b in (fields, weights))
        self.q = [np.zeros(box.fft_shape, np.float32) for _ in fields]
        self.k = [np.empty(box.fft_shape, np.float32) for _ in fields]
        for f, w, k in zip(self.f, self.w, self.k, strict=True):
            loops.data_factor(f, f, w, np.float32(np.inf), np.float32(RHO_DATA), k)

    def begin(self, spectrum: np.ndarray, plan: Plan) -> None:
        """q = A x; `spectrum` is x's, scaled."""
        for a, q in zip(self.filters, self.q, strict=True):
            np.multiply(spectrum, a, out=plan.spectrum)
            plan.inverse()
            q[:] = plan.real

    def normal(self) -> np.ndarray:
        """sum A_i^2."""
        return sum((a * a for a in self.filters[1:]), self.filters[0] ** 2)

    def reflect(self, plan: Plan, out: np.ndarray) -> None:
        """out = sum A_i F (v_i - a_i)."""
        for n, (a, f, q, k) in enumerate(zip(self.filters, self.f, self.q, self.k, strict=True)):
            loops.reflect_data(q, f, k, plan.real)
            spectrum = plan.forward(plan.real, plan.spectrum if n else out)
            multiply(spectrum, a)
            if n:
                out += spectrum

    def update(self, spectrum: np.ndarray, plan: Plan, renew: bool) -> None:
        """q from A x, and the weights of voxels that the model cannot explain."""
        for a, f, w, q, k in zip(self.filters, self.f, self.w, self.q, self.k, strict=True):
            np.multiply(spectrum, a, out=plan.spectrum)
            ax = plan.inverse()
            loops.update_data(ax, q, f, k, RELAXATION)
            if renew:
                spread = ROBUST * _median_residual(ax, f, w)
                limit = np.float32(self.sigmas * spread) if spread > 0 else np.float32(np.inf)
                loops.data_factor(ax, f, w, limit, np.float32(RHO_DATA), k)


def solve(
    data: Fields,
    prior: Prior,
    box: Box,
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    regularisation: float,
    iterations: int,
    start: np.ndarray | None,
) -> np.ndarray:
    """x in ppm, float32 of `shape`, meaningful in the mask; regularisation in ppm mm, `start` of `shape` or None."""
    return extract(solve_in_box(data, prior, box, voxel_mm, regularisation, iterations, start), box, shape)


def solve_in_box(
    data: Fields,
    prior: Prior,
    box: Box,
    voxel_mm: tuple[float, float, float],
    regularisation: float,
    iterations: int,
    start: np.ndarray | None,
) -> np.ndarray:
    """`solve` before its x is put back: the work array of the box's plan, free sources and all."""
    plan = fft.plan(box.fft_shape)
    rho, rho_tv, scale = (np.float32(v) for v in (RHO_DATA, RHO_TV_PER_LAMBDA * regularisation, plan.scale))
    normal, power = data.normal(), gradient_power(box.fft_shape, voxel_mm)
    x, differences, spectrum = plan.real, plan.spectrum, plan.new_spectrum()  # the data's steps come between their uses
    if start is not None:
        prior.begin(embed(start, box, x))
        plan.forward(x, spectrum)
        spectrum *= scale
        data.begin(spectrum, plan)
    for done in range(1, iterations + 1):
        data.reflect(plan, spectrum)
        prior.reflect(x)
        plan.forward(x, differences)
        loops.solve_spectrum(spectrum, differences, normal, power, rho, rho_tv, scale)
        renew = done % RENEW_EVERY == 0 and done < iterations
        data.update(spectrum, plan, renew and done >= RENEW_AFTER)
        plan.inverse(spectrum, x)
        if renew and (done >= RENEW_AFTER or start is not None):
            prior.renew(x)
        prior.update(x)
    return x
