"""NDI and iLSQR against plain float64 versions: gradient descent spelled out, SciPy's LSQR and LSMR."""

import numpy as np
import pytest
from plain64 import GRID, RAD_PER_PPM, Problem, close, scene, spectral
from scipy.sparse.linalg import LinearOperator, lsmr, lsqr

from qsm_runtime.inversion import METHODS
from qsm_runtime.inversion._noise import explained_ppm
from qsm_runtime.kernels.weights import data_weights

SATURATION = 4  # of the weights of methods that nothing but an early stop keeps from the noise


@pytest.fixture(scope="module")
def case():
    return scene(noise=0.0001)  # little enough for no solver to stop at it


@pytest.fixture(scope="module")
def problem(case):
    return Problem(*case, SATURATION)


def run(name, case, **options):
    field, mask, reliability = case
    return METHODS[name](field, mask, GRID, reliability=reliability, **options)


def ndi_reference(problem, step, iterations):
    """Nesterov's descent on |W (exp(i s D x) - exp(i s f))|^2 / (2 s^2), and the steps taken."""
    s, w, mask = RAD_PER_PPM, problem.w * problem.mask, problem.mask
    step /= max(w.max(), 1.0) ** 2
    x = problem.least_squares(2, 0.02, problem.noise_to_signal)
    y, t = x, 1.0
    for done in range(iterations):
        residual = np.sin(s * (mask * spectral(mask * y, problem.d) - problem.f)) / s
        if np.linalg.norm(w * residual) <= problem.stop:
            return problem.back(x), done
        new = y - step * mask * spectral(w**2 * residual, problem.d)
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        x, y = new, new + (before - 1) / t * (new - x)
    return problem.back(x), iterations


@pytest.mark.parametrize("iterations", [1, 2, 9])
def test_ndi(case, problem, iterations):
    want, steps = ndi_reference(problem, 2.0, iterations)
    assert steps == iterations
    close(run("ndi", case, step=2.0, max_iterations=iterations), want, 3e-5)


def test_ndi_stops_at_the_noise():
    noisy = scene(noise=0.001, spread=0.0)
    problem = Problem(*noisy, SATURATION)
    want, steps = ndi_reference(problem, 2.0, 60)
    assert 0 < steps < 60
    close(run("ndi", noisy, step=2.0, max_iterations=60), want, 3e-5)


def ndi_slope(problem, x):
    """The same misfit differentiated numerically along a random direction, and by the method's formula."""
    rng, s, w = np.random.default_rng(3), RAD_PER_PPM, problem.w * problem.mask
    direction = problem.mask * rng.standard_normal(problem.shape)

    def misfit(step):
        field = spectral(problem.mask * (x + step * direction), problem.d)
        return (np.abs(w * (np.exp(1j * s * field) - np.exp(1j * s * problem.f))) ** 2).sum() / (2 * s * s)

    residual = np.sin(s * (spectral(problem.mask * x, problem.d) - problem.f)) / s
    formula = (direction * problem.mask * spectral(w**2 * residual, problem.d)).sum()
    return (misfit(1e-6) - misfit(-1e-6)) / 2e-6, formula


def test_ndi_descends_the_stated_misfit(problem):
    numeric, formula = ndi_slope(problem, problem.least_squares(2, 0.02, 0.0))
    assert numeric == pytest.approx(formula, rel=1e-5)


def flat_differences(problem):
    """1 at differences inside the mask below the 70 % quantile, an axis each, of the clamped-inverse map."""
    sign = np.where(problem.d >= 0, 1.0, -1.0)
    clamped = np.where(np.abs(problem.d) > 0.2, 1 / np.where(problem.d == 0, 1, problem.d), sign / 0.2)
    clamped[problem.d == 0] = 0
    strength = np.abs(problem.difference(spectral(problem.f, clamped)))
    flat = np.zeros(strength.shape)
    for axis in range(3):
        both = problem.mask & np.roll(problem.mask, -1, axis)
        flat[axis][both] = strength[axis][both] <= np.quantile(strength[axis][both], 0.7)
    return flat


def ilsqr_reference(problem, threshold, iterations, streak_iterations):
    shape, size, w, mask = problem.shape, int(np.prod(problem.shape)), problem.w * problem.mask, problem.mask
    forward = LinearOperator(
        (size, size),
        matvec=lambda x: (w * spectral(mask * x.reshape(shape), problem.d)).ravel(),
        rmatvec=lambda y: (mask * spectral(w * y.reshape(shape), problem.d)).ravel(),
        dtype=float,
    )
    target = (w * problem.f).ravel()
    for count in range(1, iterations + 1):
        first = lsqr(forward, target, atol=0, btol=0, conlim=0, iter_lim=count)[0]
        if np.linalg.norm(forward @ first - target) <= problem.stop:
            break
    first = first.reshape(shape)
    flat, cone = flat_differences(problem), np.abs(problem.d) < threshold
    streaks = LinearOperator(
        (3 * size, size),
        matvec=lambda v: (flat * problem.difference(spectral(v.reshape(shape), cone))).ravel(),
        rmatvec=lambda g: spectral(problem.difference_adjoint(flat * g.reshape(3, *shape)), cone).ravel(),
        dtype=float,
    )
    rhs = (flat * problem.difference(first * mask)).ravel()
    found = lsmr(streaks, rhs, atol=0, btol=0, conlim=0, maxiter=streak_iterations)[0]
    return problem.back(first - spectral(found.reshape(shape), cone)), count, problem.back(first)


@pytest.mark.parametrize("streak_iterations", [1, 6])
def test_ilsqr(case, problem, streak_iterations):
    want, steps, first = ilsqr_reference(problem, 0.1, 5, streak_iterations)
    assert steps == 5
    got = run("ilsqr", case, threshold=0.1, tolerance=0.0, max_iterations=5, streak_iterations=streak_iterations)
    close(got, want, 3e-5)
    assert np.abs(first - want).max() > 0.01 * np.abs(want).max()  # streaks were found


def test_ilsqr_stops_at_the_noise():
    noisy = scene(noise=0.001, spread=0.0)
    problem = Problem(*noisy, SATURATION)
    want, steps, _ = ilsqr_reference(problem, 0.1, 20, 4)
    assert 1 < steps < 20
    got = run("ilsqr", noisy, threshold=0.1, tolerance=0.0, max_iterations=20, streak_iterations=4)
    close(got, want, 3e-5)


def test_what_noise_explains_is_the_norm_it_has():
    """Weights and deviations that differ a thousandfold, some voxels not to be trusted at all."""
    rng = np.random.default_rng(9)
    deviation = (0.002 * np.exp(rng.uniform(0, 7, (30, 30, 30)))).astype(np.float32)
    reliability = np.where(rng.uniform(size=deviation.shape) < 0.1, 0, 1 / deviation).astype(np.float32)
    weight = data_weights(reliability, np.ones(deviation.shape, bool), SATURATION)
    noise = deviation * rng.standard_normal(deviation.shape)
    assert explained_ppm(weight, 1.0, reliability) == pytest.approx(np.linalg.norm(weight * noise), rel=0.02)
    assert explained_ppm(weight, 0.01, None) == pytest.approx(0.01 * np.linalg.norm(weight))
