"""Unrolled reconstructions: a CNN as the proximal map of an iteration whose data steps run on the host.

proximal_gradient  x = P(z), z = x - step A^T (A x - f), first z = step A^T f. LPCNN: Lai 2020,
                   10.1007/978-3-030-59713-9_13; MoG-QSM: arXiv 2101.08413. With two channels A x = D x1 + x2, x2 the
                   field that chi13 and chi23 make: MoDL-QSM, Feng 2021, 10.1016/j.neuroimage.2021.118376
half_quadratic     z = P(x), x = argmin weight |M (D x - f)|^2 + |x - z|^2     Aggarwal 2019, 10.1109/TMI.2018.2865356
schatten_cg        z = P(x), x = argmin |D x - f|^2 + lambda |x - z|_p^p by majorisation, weights |x - z|^(p - 2);
                   P sees real and imaginary parts: SpiNet-QSM, Venkatesh 2024, 10.1007/s10334-024-01158-7
learned_gradient   x = P(x, step D^T W (f - D x))     Adler 2017, 10.1088/1361-6420/aa9581; Polak 2020, 10.1002/nbm.4271

P is the network with its normalisation, masks and residual rule: values by meaning in, values by meaning out, all
float32 (x, y, z) in ppm on the network's grid. Results are float32 (x, y, z), zero outside the mask M.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import cg as conjugate
from qsm_runtime.networks.physics import Dipole

Proximal = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Progress = Callable[[float], None] | None
SMALLEST_PPM = 1e-12  # of |x - z|: keeps a Schatten weight finite where the two agree


def proximal_gradient(
    field: np.ndarray,
    mask: np.ndarray,
    dipole: Dipole,
    network: Proximal,
    *,
    steps: Sequence[float],
    off_axis: str = "",
    progress: Progress = None,
) -> np.ndarray:
    """One pass for each step. `off_axis` is the meaning of MoDL's second channel, "" where there is one only."""
    squared = dipole.filter(np.square)
    start = [dipole.field(field)] + ([field] if off_axis else [])
    names = ["chi", off_axis] if off_axis else ["chi"]
    x: list[np.ndarray] = []
    for k, step in enumerate(steps):
        # z = x + step (A^T f - A^T A x)
        z = [one.copy() for one in start]
        if k:
            for rest, one in zip(z, _normal(x, dipole, squared), strict=True):
                rest -= one
        for i, rest in enumerate(z):
            rest *= np.float32(step)
            if k:
                rest += x[i]
        made = network(dict(zip(names, z, strict=True)))
        x = [made[name] for name in names]
        _report(progress, k, len(steps))
    return x[0] * mask


def _normal(x: list[np.ndarray], dipole: Dipole, squared: np.ndarray) -> list[np.ndarray]:
    """A^T A x for A x = D x1 (+ x2)."""
    if len(x) == 1:
        return [dipole.through(x[0], squared)]
    field = dipole.field(x[0])
    field += x[1]
    return [dipole.field(field), field]


def half_quadratic(
    field: np.ndarray,
    mask: np.ndarray,
    dipole: Dipole,
    network: Proximal,
    *,
    weights: Sequence[float],
    iterations: int,
    start: np.ndarray,
    progress: Progress = None,
) -> np.ndarray:
    """One pass for each weight of the data; each solves (weight D M D + 1) d = weight D M (f - D z), x = z + d."""
    x = start
    for k, weight in enumerate(weights):
        z = np.asarray(network({"chi": x})["chi"])
        rest = dipole.field(z)
        np.subtract(field, rest, out=rest)
        rest *= mask
        dipole.field(rest, rest)
        rest *= np.float32(weight)

        def normal(v: np.ndarray, out: np.ndarray, weight: float = weight) -> None:
            dipole.field(v, out)
            np.multiply(out, mask, out=out)
            dipole.field(out, out)
            conjugate.combine(v, out, 1.0, weight)

        change, _ = conjugate.cg(normal, rest, tolerance=0.0, max_iterations=iterations)
        x = z + change
        _report(progress, k, len(weights))
    return x * mask


def schatten_cg(
    field: np.ndarray,
    mask: np.ndarray,
    dipole: Dipole,
    network: Proximal,
    *,
    weights: Sequence[float],
    power: float,
    iterations: int,
    progress: Progress = None,
) -> np.ndarray:
    """One pass for each `weight`, lambda: (D^2 + lambda w^2) x = D f + lambda w^2 z from x = 0, w^2 = |x - z|^(p - 2).

    D^2 and w^2 are real: real and imaginary parts are two real volumes that share the step lengths, which is exact.
    """
    squared = dipole.filter(np.square)
    data = dipole.field(field)
    x = np.zeros((2, *field.shape), np.float32)
    x[0] = data
    pull = np.empty(field.shape, np.float32)
    for k, weight in enumerate(weights):
        x *= mask
        made = network({"chi": x[0], "chi_imaginary": x[1]})
        rhs = np.stack([made["chi"], made["chi_imaginary"]])
        _pull(x, rhs, np.float32(weight), np.float32(power - 2.0), np.float32(SMALLEST_PPM), pull)
        rhs *= pull
        rhs[0] += data

        def normal(v: np.ndarray, out: np.ndarray) -> None:
            for one, into in zip(v, out, strict=True):
                dipole.through(one, squared, into)
                _add_product(into, one, pull)

        x, _ = conjugate.cg(normal, rhs, tolerance=0.0, max_iterations=iterations)
        _report(progress, k, len(weights))
    return x[0] * mask


@njit(parallel=True, cache=True)
def _pull(x, z, weight, power, smallest, out):
    """weight |x - z|^power over real and imaginary parts."""
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                re, im = x[0, i, j, k] - z[0, i, j, k], x[1, i, j, k] - z[1, i, j, k]
                out[i, j, k] = weight * max(np.sqrt(re * re + im * im), smallest) ** power


@njit(parallel=True, cache=True)
def _add_product(out, x, w):
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                out[i, j, k] += w[i, j, k] * x[i, j, k]


def learned_gradient(
    field: np.ndarray,
    mask: np.ndarray,
    dipole: Dipole,
    network: Proximal,
    *,
    steps: Sequence[float],
    start: np.ndarray,
    weight: np.ndarray | None = None,
    progress: Progress = None,
) -> np.ndarray:
    """One pass for each step. `weight` multiplies the residual (the mask by default)."""
    weight = mask if weight is None else weight * mask
    x = start
    for k, step in enumerate(steps):
        slope = dipole.field(x)
        np.subtract(field, slope, out=slope)
        slope *= weight
        dipole.field(slope, slope)
        slope *= np.float32(step)
        x = np.asarray(network({"chi": x, "data_gradient": slope, "pass_index": np.asarray(k)})["chi"])
        _report(progress, k, len(steps))
    return x * mask


def _report(progress: Progress, k: int, passes: int) -> None:
    if progress is not None:
        progress((k + 1) / passes)
