"""The fused loops against plain float64 numpy, and the minimum they lead to against an independent solver."""

import numpy as np

from qsm_runtime.kernels import split_tgv, split_tv

SHAPE, STEPS = (7, 6, 8), (1.0, 0.5, 0.8)
F32 = tuple(np.float32(h) for h in STEPS)


def arrays(seed: int = 0):
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < 0.8
    free = np.empty(SHAPE, np.uint8)
    split_tv.free_differences(mask, free)
    x, weight = rng.standard_normal(SHAPE).astype(np.float32), rng.uniform(0.2, 1, SHAPE).astype(np.float32)
    w, s = rng.standard_normal((2, 3, *SHAPE)).astype(np.float32)
    live = np.stack([(free >> a & 1) == 0 for a in range(3)])
    return mask, free, x, weight, w, s * live, live


def slope(x):
    return np.stack([(np.roll(x, -1, a) - x) * h for a, h in enumerate(STEPS)]).astype(np.float64)


def slope_adjoint(g):
    return sum((np.roll(g[a], 1, a) - g[a]) * h for a, h in enumerate(STEPS))


def clip(w, t, live):
    part = w * live
    length = np.sqrt((part**2).sum(0))
    return part * np.minimum(1, t / np.maximum(length, 1e-30))


def test_differences_that_leave_the_mask_are_free():
    mask, free, *_ = arrays()
    for axis in range(3):
        np.testing.assert_array_equal((free >> axis & 1) == 0, mask & np.roll(mask, -1, axis))


def test_update_and_reflection_of_differences():
    _, free, x, weight, w, s, live = arrays()
    t, r = 0.7, 1.6
    expected = r * (slope(x) + clip(w, t * weight, live)) + (1 - r) * w
    found = w.copy()
    split_tv.update_differences(x, found, np.float32(t), weight, free, *F32, np.float32(r))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    out = np.empty(SHAPE, np.float32)
    split_tv.reflect_differences(w, np.float32(t), weight, free, *F32, out)
    np.testing.assert_allclose(out, slope_adjoint(w - 2 * clip(w, t * weight, live)), atol=2e-5)
    first = w.copy()
    split_tgv.update_first(x, first, s, np.float32(t), weight, free, *F32, np.float32(r))
    np.testing.assert_allclose(first, r * (slope(x) + clip(w - s, t * weight, live)) + (1 - r) * w, atol=2e-5)
    split_tgv.reflect_first(w, s, np.float32(t), weight, free, *F32, out)
    np.testing.assert_allclose(out, slope_adjoint(w - 2 * clip(w - s, t * weight, live)), atol=2e-5)


def test_update_and_reflection_of_data():
    rng = np.random.default_rng(1)
    ax, q, f, weight = rng.standard_normal((4, *SHAPE)).astype(np.float32)
    weight, rho, limit = np.abs(weight), 0.3, 0.5
    k = np.empty(SHAPE, np.float32)
    split_tv.data_factor(ax, f, weight, np.float32(limit), np.float32(rho), k)
    lowered = weight * np.minimum(1, limit / np.abs(weight * (ax - f))) ** 2
    np.testing.assert_allclose(k, lowered**2 / (lowered**2 + rho), atol=1e-5)
    v, a = q + k * (f - q), k * (q - f)
    out = np.empty(SHAPE, np.float32)
    split_tv.reflect_data(q, f, k, out)
    np.testing.assert_allclose(out, v - a, atol=1e-5)
    found = q.copy()
    split_tv.update_data(ax, found, f, k, np.float32(1.6))
    np.testing.assert_allclose(found, 1.6 * ax + (1 - 1.6) * v + a, atol=1e-5)


def test_weight_of_the_logarithmic_penalty():
    _, free, x, _, _, _, live = arrays()
    out = np.empty(SHAPE, np.float32)
    split_tv.sparsity_weight(x, free, *F32, np.float32(0.4), out)
    np.testing.assert_allclose(out, 0.4 / (0.4 + np.sqrt(((slope(x) * live) ** 2).sum(0))), rtol=1e-5)


def test_bending_loops_are_adjoint_to_each_other():
    """<E s, e> = <s, E^T e>: one loop's step with all else zero gives E s, the other's E^T e."""
    _, free, _, weight, _, s, live = arrays(5)
    live[:, 0] = live[:, :, 0] = live[:, :, :, 0] = live[:, -1] = live[:, :, -1] = live[:, :, :, -1] = False
    free |= sum((~live[a]).astype(np.uint8) << a for a in range(3))
    s = (s * live).astype(np.float32)
    e = np.zeros((6, *SHAPE), np.float32)
    split_tgv.update_bend(s, e, np.float32(1e9), free, *F32)
    sigma = 2.3 / sum(h * h for h in STEPS)
    bent = e / sigma
    rng = np.random.default_rng(6)
    other = rng.standard_normal(e.shape).astype(np.float32)
    other[:, 0] = other[:, :, 0] = other[:, :, :, 0] = 0
    other *= np.abs(bent).sum(0) > 0  # e lives where E s does
    moved, bar = np.zeros_like(s), np.zeros_like(s)
    split_tgv.update_slope(np.zeros_like(s), moved, bar, other, np.float32(0), weight, free, *F32)
    back = -moved / split_tgv.TAU * live
    twice = np.array([1, 2, 2, 1, 2, 1])[:, None, None, None]
    left, right = float((twice * bent * other).sum()), float((s * back).sum())
    assert abs(left) > 1
    assert abs(left - right) < 1e-4 * abs(left)


def test_spectrum_solution():
    rng = np.random.default_rng(2)
    shape = (4, 5, 3)
    a, b = (
        (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64),
        np.ones(shape, np.complex64),
    )
    normal, power = rng.uniform(0.1, 1, (2, *shape)).astype(np.float32)
    expected = 0.5 * (0.2 * a + 3 * b) / (0.2 * normal + 3 * power)
    expected[0, 0, 0] = 0
    split_tv.solve_spectrum(a, b, normal, power, np.float32(0.2), np.float32(3), np.float32(0.5))
    np.testing.assert_allclose(a, expected, rtol=1e-5)
