"""CG, LSQR and LSMR against numpy's dense solutions."""

import numpy as np
import pytest

from qsm_runtime.kernels.cg import Product, cg, combine, lsmr, lsqr

SHAPE = (4, 5, 6)
N = 120


def operator(matrix, shape_out):
    def apply(x, out):
        out[...] = (matrix @ x.ravel()).reshape(shape_out)

    return apply


@pytest.fixture(params=[np.float32, np.complex64])
def system(request):
    rng = np.random.default_rng(3)

    def draw(*shape):
        real = rng.standard_normal(shape)
        return real + 1j * rng.standard_normal(shape) if request.param is np.complex64 else real

    basis = np.linalg.qr(draw(N, N))[0]
    positive = (basis * np.linspace(0.5, 3, N)) @ basis.conj().T
    return positive, draw(N).astype(request.param).reshape(SHAPE)


def test_cg_solves_a_positive_system(system):
    matrix, rhs = system
    before = rhs.copy()
    x, iterations = cg(operator(matrix, SHAPE), rhs, tolerance=1e-6, max_iterations=100)
    want = np.linalg.solve(matrix, rhs.ravel().astype(complex)).reshape(SHAPE)
    assert x.dtype == rhs.dtype
    assert iterations < 40
    np.testing.assert_allclose(x, want, atol=2e-5)
    np.testing.assert_array_equal(rhs, before)


def test_warm_start_and_exact_preconditioner_shorten_the_way(system):
    matrix, rhs = system
    apply = operator(matrix, SHAPE)
    x, cold = cg(apply, rhs, tolerance=1e-5, max_iterations=100)
    again, warm = cg(apply, rhs, tolerance=1e-5, max_iterations=100, x0=x)
    assert warm <= 2 < cold
    np.testing.assert_allclose(again, x, atol=1e-5)
    inverse = operator(np.linalg.inv(matrix), SHAPE)
    preconditioned, steps = cg(apply, rhs, tolerance=1e-5, max_iterations=100, precondition=inverse)
    assert steps <= 2
    np.testing.assert_allclose(preconditioned, x, atol=1e-4)


def test_cg_stops_at_once_on_zero_and_reports_progress(system):
    matrix, rhs = system
    x, iterations = cg(operator(matrix, SHAPE), np.zeros_like(rhs), tolerance=1e-3, max_iterations=5)
    assert iterations == 0
    assert not x.any()
    seen = []
    _, iterations = cg(operator(matrix, SHAPE), rhs, tolerance=0, max_iterations=4, progress=seen.append)
    assert iterations == 4
    assert seen == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("solver", [lsqr, lsmr])
def test_least_squares_agrees_with_numpy(solver):
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((90, 24))
    rhs = rng.standard_normal((3, 30)).astype(np.float32)
    x, iterations = solver(
        operator(matrix, (3, 30)),
        operator(matrix.T, (4, 6)),
        rhs,
        np.empty((4, 6), np.float32),
        tolerance=1e-7,
        max_iterations=60,
    )
    want = np.linalg.lstsq(matrix, rhs.ravel(), rcond=None)[0]
    np.testing.assert_allclose(x.ravel(), want, atol=1e-5)
    assert iterations < 60


def test_lsqr_and_lsmr_follow_scipy_step_by_step():
    from scipy.sparse import linalg

    rng = np.random.default_rng(6)
    matrix = rng.standard_normal((60, 40))
    rhs = rng.standard_normal(60).astype(np.float32)
    for ours, theirs in ((lsqr, linalg.lsqr), (lsmr, linalg.lsmr)):
        for steps in (1, 2, 5, 9):
            limit = "iter_lim" if ours is lsqr else "maxiter"
            want = theirs(matrix, rhs, **{limit: steps, "atol": 0, "btol": 0, "conlim": 0})[0]
            like = np.empty(40, np.float32)
            x, _ = ours(operator(matrix, 60), operator(matrix.T, 40), rhs, like, tolerance=0, max_iterations=steps)
            np.testing.assert_allclose(x, want, atol=2e-5)


@pytest.mark.parametrize("size", [6, 7])
def test_half_spectrum_product_is_the_product_of_the_real_arrays(size):
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((2, 4, 3, size))
    fx, fy = np.fft.rfftn(x).astype(np.complex64), np.fft.rfftn(y).astype(np.complex64)
    assert Product(size)(fx, fy) / x.size == pytest.approx((x * y).sum(), rel=1e-5)


def test_combine_and_the_fused_step():
    rng = np.random.default_rng(8)
    x, r, p, q = rng.standard_normal((4, 3, 4, 5)).astype(np.float32)
    want_x, want_r = x + 0.5 * p, r - 0.5 * q
    square = Product().step(x, r, p, q, 0.5)
    np.testing.assert_allclose(x, want_x, rtol=1e-6)
    np.testing.assert_allclose(r, want_r, rtol=1e-6, atol=1e-7)
    assert square == pytest.approx(float((want_r.astype(float) ** 2).sum()), rel=1e-6)
    combine(p, q, 2.0, -1.0)
    assert not np.array_equal(q, p)
