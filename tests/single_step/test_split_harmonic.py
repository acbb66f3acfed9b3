"""The joint update of susceptibility and harmonic field, against a dense solve; the weak harmonic's own behaviour."""

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels import split_harmonic as loops
from qsm_runtime.kernels.differences import gradient_power
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.single_step.wh_qsm import wh_qsm

SHAPE = (6, 5, 8)


def test_pair_update_solves_the_normal_equations():
    rng = np.random.default_rng(0)
    dipole = dipole_kernel(SHAPE, (1.0, 1.1, 0.9), (0.2, 0.1, 0.97))
    power = gradient_power(SHAPE, (1.0, 1.1, 0.9))
    laplacian = 1.1 * power
    data, differences, curvature = (
        (rng.standard_normal(dipole.shape) + 1j * rng.standard_normal(dipole.shape)).astype(np.complex64)
        for _ in range(3)
    )
    given = [a.astype(complex) for a in (data, differences, curvature)]
    rho_data, rho_tv, rho_h, scale = (np.float32(v) for v in (0.1, 0.02, 1.0, 0.5))
    loops.solve_pair(data, differences, curvature, dipole, power, laplacian, rho_data, rho_tv, rho_h, scale)
    d, e, n = (a.astype(float) for a in (dipole, power, laplacian))
    for at in np.ndindex(*dipole.shape):
        if at == (0, 0, 0):  # neither the mean of x nor of anything else is told there
            continue
        matrix = [
            [rho_data * d[at] ** 2 + rho_tv * e[at], rho_data * d[at]],
            [rho_data * d[at], rho_data + rho_h * n[at] ** 2],
        ]
        right = [
            rho_data * d[at] * given[0][at] + rho_tv * given[1][at],
            rho_data * given[0][at] + rho_h * n[at] * given[2][at],
        ]
        x, h = np.linalg.solve(matrix, right) * float(scale)
        np.testing.assert_allclose(
            [data[at], differences[at], curvature[at]], [x, d[at] * x + h, n[at] * h], rtol=2e-4, atol=2e-4
        )


def test_curvature_is_shrunk_in_the_region_alone():
    rng = np.random.default_rng(1)
    p, lh = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    region, share, relax = rng.random(SHAPE) < 0.5, np.float32(0.9), np.float32(1.6)
    b = np.where(region, share * p, 0)
    out = np.empty_like(p)
    loops.reflect_curvature(p, region, share, out)
    np.testing.assert_allclose(out, (p - b) - b, rtol=1e-5, atol=1e-6)
    expected = relax * lh + (1 - relax) * (p - b) + b  # over-relaxed L h, less l, more the multiplier
    loops.update_curvature(lh, p, region, share, relax)
    np.testing.assert_allclose(p, expected, rtol=1e-4, atol=1e-5)


def test_sources_outside_leave_no_trace():
    """A field of sources beyond the mask is background: the map of it alone is nearly nothing."""
    grid = Grid((36, 36, 36))
    x, y, z = np.meshgrid(*(np.arange(36.0) - 17.5,) * 3, indexing="ij")
    mask = x**2 + y**2 + z**2 < 11**2
    distance2 = (x - 20) ** 2 + y**2 + (z - 8) ** 2
    total = (1200 * (3 * (z - 8) ** 2 / distance2 - 1) / distance2**1.5).astype(np.float32)
    assert np.ptp(total[mask]) > 1
    assert np.abs(wh_qsm(total, mask, grid)).max() < 1e-3
