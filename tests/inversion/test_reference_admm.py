"""RTS, HD-QSM, MEDI and STAR against plain float64 versions of their iterations, with weights and outliers."""

import numpy as np
import pytest
from plain64 import GRID, RAD_PER_PPM, Admm, Problem, close, scene, spectral, squares

from qsm_runtime.inversion import METHODS
from qsm_runtime.kernels.splitting import phase_step

LAMBDA = 1e-3


@pytest.fixture(scope="module")
def case():
    return scene()


@pytest.fixture(scope="module")
def problem(case):
    return Problem(*case)


def run(name, case, **options):
    field, mask, reliability = case
    return METHODS[name](field, mask, GRID, reliability=reliability, regularisation=LAMBDA, **options)


def rts_reference(problem, threshold, first_iterations, iterations, tolerance, outlier_rounds=1):
    first, w, field = 0.0, problem.w, problem.f
    for done in range(outlier_rounds + 1):
        if done:
            field = np.where(w > 0, problem.f + problem.images(first), 0)
            w = w * problem.outlier_factor(spectral(first, problem.d) - field, w)
        few = first_iterations // 4
        steps = few if done < outlier_rounds else first_iterations - few * outlier_rounds
        first = problem.least_squares(steps, threshold**2, 0.25 * problem.noise_to_signal, first, w, field)
    rho, support = 100 * LAMBDA, 3e-3
    known = np.abs(problem.d) > threshold
    below = rho * problem.power() + known + support
    x, old = first, np.zeros(problem.shape)
    u_z, u_p = np.zeros((3, *problem.shape)), np.zeros(problem.shape)
    for _ in range(iterations):
        g = problem.difference(x) + u_z
        z = g * np.maximum(0, 1 - LAMBDA / rho / np.maximum(np.sqrt((g**2).sum(0)), 1e-30))
        u_z = g - z
        p = np.where(problem.mask, x + u_p, 0)
        u_p = x + u_p - p
        above = rho * problem.difference_adjoint(z - u_z) + support * (p - u_p)
        x = np.fft.ifftn((np.fft.fftn(above) + known * np.fft.fftn(first)) / below).real
        new = x * problem.mask
        if np.linalg.norm(new - old) <= tolerance * np.linalg.norm(new):
            break
        old = new
    return problem.back(x)


@pytest.mark.parametrize(("tolerance", "outlier_rounds"), [(0.0, 0), (0.0, 1), (0.0, 2), (0.03, 1)])
def test_rts(case, problem, tolerance, outlier_rounds):
    options = {"tolerance": tolerance, "outlier_rounds": outlier_rounds}
    got = run("rts", case, threshold=0.12, first_iterations=8, max_iterations=12, **options)
    close(got, rts_reference(problem, 0.12, 8, 12, **options), 3e-5)


def test_rts_stops_by_its_tolerance(case, problem):
    """Else the parameter above would be idle."""
    long, short = (rts_reference(problem, 0.12, 6, 12, tolerance) for tolerance in (0.0, 0.03))
    assert np.abs(long - short).max() > 3e-3 * np.abs(long).max()


def absolute(corner):
    """argmin_v a w |v - f| + r/2 (v - q)^2."""

    def step(q, f, w2, r):
        return f + np.sign(q - f) * np.maximum(np.abs(q - f) - corner * np.sqrt(w2) / r, 0)

    return step


def test_hdqsm(case, problem):
    state = Admm(problem)
    state.run(absolute(max(3 * problem.noise, 2e-3)), LAMBDA, 8)
    before = state.w2
    state.reweight()
    assert (state.w2 < 0.9 * before).sum() > 3  # outliers there are
    state.run(squares, LAMBDA, 10)
    got = run("hdqsm", case, first_iterations=8, max_iterations=10, tolerance=0.0)
    close(got, state.result(), 3e-5)


def two_rounds(state, lam, iterations):
    state.run(absolute(max(3 * state.p.noise, 2e-3)), lam, iterations // 2)
    state.reweight()
    state.run(squares, lam, iterations // 2)


def test_star(case, problem):
    strong_ppm, iterations = 0.1, 16
    first = Admm(problem)
    two_rounds(first, 20 * LAMBDA, iterations // 2)
    strong = np.where(np.abs(first.x) >= strong_ppm, first.x, 0) * problem.mask
    assert strong.any()
    known = spectral(strong, problem.d) - problem.images(strong)
    second = Admm(problem, problem.mask * (problem.f - known))
    two_rounds(second, LAMBDA, iterations)
    got = run("star", case, strong_ppm=strong_ppm, max_iterations=iterations, tolerance=0.0)
    close(got, problem.back(strong) + second.result(), 3e-5)


def cosine(q, f, w2, r):
    """argmin_v w2 (1 - cos(s (v - f))) / s^2 + r/2 (v - q)^2: bisection between q and the turn of f nearest to it."""
    s = RAD_PER_PPM
    turned = f + 2 * np.pi / s * np.rint(s * (q - f) / (2 * np.pi))
    near, far = turned, q  # slope below 0 on the way to q at `near`, above at `far`
    for _ in range(60):
        v = (near + far) / 2
        slope = (w2 * np.sin(s * (v - turned)) / s + r * (v - q)) * np.sign(q - turned)
        near, far = np.where(slope < 0, v, near), np.where(slope < 0, far, v)
    return np.where(w2 > 0, v, q)


@pytest.mark.parametrize("r", [0.2, 1.0])
def test_the_phase_step_finds_the_least_value(r):
    """Searched for among all values, over several turns."""
    rng = np.random.default_rng(8)
    f, q = 0.1 * rng.standard_normal((6, 7, 8)), rng.uniform(-1.2, 1.2, (6, 7, 8))
    w2 = rng.choice([1.0, 0.2, 1e-3, 0.0], f.shape)

    def value(v):
        return w2 * (1 - np.cos(RAD_PER_PPM * (v - f))) / RAD_PER_PPM**2 + r / 2 * (v - q) ** 2

    y, u = q.astype(np.float32), np.zeros(f.shape, np.float32)
    phase_step(y, u, f.astype(np.float32), w2.astype(np.float32), np.float32(r), np.float32(RAD_PER_PPM))
    v = q - u
    least = np.min([value(x) for x in np.linspace(-1.5, 1.5, 4001)], axis=0)
    assert (value(v) <= least + 1e-9).all()
    np.testing.assert_allclose(y, 2 * v - q, atol=1e-6)
    np.testing.assert_allclose(v, cosine(q, f, w2, r), atol=2e-4 / RAD_PER_PPM)
    assert (np.abs(RAD_PER_PPM * (q - f)) > np.pi).mean() > 0.5


def magnitude_of(mask):
    """Two echoes with a step and texture, so that no two differences are equal."""
    rng = np.random.default_rng(5)
    one = 100 + 50 * (np.indices(GRID.shape)[0] > 9) + 20 * rng.uniform(size=GRID.shape)
    return (np.stack([one, 0.6 * one]) * mask).astype(np.float32)


def free_differences(problem, magnitude, mask):
    """The strongest 30 % of the magnitude's differences inside the mask, all axes ranked together."""
    total = np.sqrt((magnitude.astype(float) ** 2).sum(0))[problem.inner]
    strength = np.abs(np.stack([(np.roll(total, -1, a) - total) / s for a, s in enumerate(problem.steps)]))
    inside = mask[problem.inner]
    strong = (strength > np.quantile(strength[:, inside], 0.7)) & inside
    out = np.zeros((3, *problem.shape), bool)
    out[(slice(None), *problem.low)] = strong
    return out


@pytest.mark.parametrize("noise", [0.0005, 0.003])  # phases stay within half a turn; some are several turns off
def test_medi(noise):
    case = scene(noise)
    problem, magnitude = Problem(*case), magnitude_of(case[1])
    edges = free_differences(problem, magnitude, case[1])
    assert edges.any(axis=(1, 2, 3)).all()
    state = Admm(problem, edges=edges)
    for number in range(3):
        if number:
            state.reweight()
        state.run(cosine, LAMBDA, 5)
    got = run("medi", case, magnitude=magnitude, max_iterations=15, tolerance=0.0)
    close(got, state.result(), 3e-5)
    plain = run("medi", case, max_iterations=15, tolerance=0.0)
    assert np.abs(plain - got).max() > 0.02 * np.abs(got).max()  # the edges count
