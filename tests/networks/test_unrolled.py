"""Unrolled schemes against plain float64 loops, the CNN by onnxruntime, to 1e-4 of the susceptibility's range."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import ANYWHERE, network, port, stack

from qsm_runtime.grid import Grid
from qsm_runtime.inversion.network import network as inversion
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.networks import registry
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.networks.session import open_session

VOXEL, B0 = (1.0, 1.1, 1.2), (0.1, -0.2, 0.97)
GRID = Grid((30, 32, 26), VOXEL, B0)
MEAN, STD = np.array([-0.002, 0.001]), np.array([0.03, 0.02])
Cnn = Callable[[np.ndarray], np.ndarray]


def weights(channels: int, out: int = 0) -> bytes:
    """A proximal CNN of random weights that changes its input moderately."""
    rng = np.random.default_rng(5)
    out = out or channels

    def kernel(a: int, b: int, n: int) -> np.ndarray:
        return rng.normal(size=(a, b, n, n, n)) / np.sqrt(b * n**3)

    return network([(kernel(8, channels, 3), None, True), (kernel(8, 8, 3), rng.normal(size=8) * 0.1, True),
                    (0.7 * kernel(out, 8, 1), rng.normal(size=out) * 0.05, False)])  # fmt: skip


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) for n in GRID.shape), indexing="ij")
    mask = (x / 11) ** 2 + (y / 12) ** 2 + (z / 10) ** 2 < 1
    chi = np.where(mask, 0.05 * np.sin(x / 2) * np.cos(y / 3) + 0.02 * rng.standard_normal(GRID.shape), 0)
    return np.where(mask, through(chi, kernel(GRID.shape)), 0).astype(np.float32), mask


def kernel(shape: tuple[int, ...], dc: float = 0.0) -> np.ndarray:
    """D in float64 on the full spectrum; Nyquist planes are the mean over both signs, as a real field needs."""
    k = np.stack(np.meshgrid(*(np.fft.fftfreq(n, v) for n, v in zip(shape, VOXEL, strict=True)), indexing="ij"))
    b = np.array(B0) / np.linalg.norm(B0)
    total = np.zeros(shape)
    signs = [(sx, sy, sz) for sx in (1, -1) for sy in (1, -1) for sz in (1, -1)]
    nyquist = [np.isclose(np.abs(k[a]), 0.5 / VOXEL[a]) for a in range(3)]
    for sign in signs:
        q = np.stack([np.where(nyquist[a], sign[a] * k[a], k[a]) for a in range(3)])
        k2 = (q**2).sum(0)
        total += 1 / 3 - np.divide(np.tensordot(b, q, 1) ** 2, k2, out=np.full(shape, 1 / 3), where=k2 > 0)
    total /= len(signs)
    total[0, 0, 0] = dc
    return total


def through(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.fft.ifftn(d * np.fft.fftn(x)).real


@pytest.fixture
def models(make_model) -> Callable[..., tuple[Runtime, Cnn]]:
    """Writes an unrolled model called "unrolled"; gives the runtime that finds it, and its bare CNN in float32."""

    def make(takes: dict, gives: dict, data: bytes, physics: dict, *, masked: bool = True, dc: float = 0.0,
             residual: str = "none", mean: np.ndarray = MEAN, std: np.ndarray = STD):  # fmt: skip
        n_in, n_out = len(takes.get("channels", [0])), len(gives.get("channels", [0]))
        rule = [{"kind": "affine", "mean": mean[:n].tolist(), "std": std[:n].tolist()} for n in (n_in, n_out)]
        path: Path = make_model(
            "unrolled", data, tests=False, inputs=[takes], outputs=[gives], physics=physics,
            normalisation={"inputs": {"x": rule[0]}, "outputs": {"y": rule[1]}, "mask_before": masked,
                           "mask_after": masked, "residual": residual},
            geometry={"voxel_mm": None, "tolerance": 0.05, "resample": "none", "b0": "in_dipole"},
            dipole={"dc": dc, "order": "half"}, domain=ANYWHERE,
        )  # fmt: skip
        runtime = Runtime(device="ort-cpu", models=(path.parent,))
        session = open_session(registry.load(path), replace(runtime, mode="server"))  # stays open

        def cnn(x: np.ndarray) -> np.ndarray:
            return session.run({"x": x[None].astype(np.float32)})["y"][0].astype(float)

        return runtime, cnn

    return make


def result(runtime: Runtime, scene: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, Mapping]:
    record: dict = {}
    chi = inversion(*scene, GRID, model="unrolled", runtime=runtime, record=record.__setitem__)
    return chi, record["network"]


def framed(scene: tuple[np.ndarray, np.ndarray], record: Mapping) -> tuple[np.ndarray, np.ndarray, tuple[slice, ...]]:
    """Field and mask on the network's grid: the mask's box less the margin of 8 mm, padded at the ends."""
    field, mask = scene
    box, shape = box_of(mask), tuple(record["grid"]["shape"])
    margin = [int(np.ceil(8 / v)) for v in VOXEL]
    inner = tuple(slice(m, m + n) for m, n in zip(margin, box.size, strict=True))
    f, m = np.zeros(shape), np.zeros(shape, bool)
    f[inner], m[inner] = (field * mask)[box.slices], mask[box.slices]
    return f, m, inner


def same(chi: np.ndarray, wanted: np.ndarray, scene: tuple, inner: tuple[slice, ...]) -> None:
    found = chi[box_of(scene[1]).slices]
    span = np.ptp(wanted[inner])
    assert span > 1e-3
    assert np.abs(found - wanted[inner]).max() < 1e-4 * span


def prox(cnn: Cnn, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    mean, std = (v[: len(x), None, None, None] for v in (MEAN, STD))
    return cnn((x - mean) / std * mask) * mask * std + mean


def test_proximal_gradient(models, scene) -> None:
    """As networks of LPCNN's kind are defined: one channel."""
    step = 1.2
    runtime, cnn = models(port("x", "chi"), port("y", "chi"), weights(1),
                          {"scheme": "proximal_gradient", "passes": 3, "step": step})  # fmt: skip
    chi, record = result(runtime, scene)
    f, m, inner = framed(scene, record)
    d = kernel(f.shape)
    y0 = step * through(f, d)
    z = y0
    for k in range(3):
        if k:
            z = x + y0 - step * through(through(x, d), d)  # noqa: F821
        x = prox(cnn, z[None], m)[0]
    same(chi, x * m, scene, inner)


def test_two_channels(models, scene) -> None:
    """As MoDL-QSM: A x = F^-1 (D F x1 + F x2)."""
    step = 0.9
    both = stack("x", "chi", "chi_off_axis_field")
    runtime, cnn = models(both, {**both, "tensor": "y"}, weights(2),
                          {"scheme": "proximal_gradient", "passes": 3, "step": step})  # fmt: skip
    chi, record = result(runtime, scene)
    f, m, inner = framed(scene, record)
    d = kernel(f.shape)

    def adjoint(v: np.ndarray) -> np.ndarray:
        return np.stack([through(v, d), v])

    y0 = step * adjoint(f)
    z = y0
    for k in range(3):
        if k:
            z = x + y0 - step * adjoint(through(x[0], d) + x[1])  # noqa: F821
        x = prox(cnn, z, m)
    same(chi, x[0] * m, scene, inner)


def test_schatten_cg(models, scene) -> None:
    """As SpiNet-QSM, in complex arithmetic: 25 steps from zero on D^2 + lambda w^2, w = |x - z|^(p/2 - 1)."""
    weight, power, dc = 0.04, 1.6, 1 / 3
    both = stack("x", "chi", "chi_imaginary")
    mean, std = np.full(2, -0.0027), np.full(2, 0.0289)
    runtime, cnn = models(both, {**both, "tensor": "y"}, weights(2), {
        "scheme": "schatten_cg", "passes": 3, "weight": weight, "power": power, "cg_steps": 25,
    }, masked=False, dc=dc, mean=mean, std=std)  # fmt: skip
    chi, record = result(runtime, scene)
    f, m, inner = framed(scene, record)
    d = kernel(f.shape, dc)
    x = np.fft.ifftn(d * np.fft.fftn(f))
    for _ in range(3):
        x = x * m
        z2 = cnn((np.stack([x.real, x.imag]) - mean[0]) / std[0]) * std[0] + mean[0]
        z = z2[0] + 1j * z2[1]
        w = (x - z) ** (power / 2 - 1)
        square = (w.conj() * w).real

        def normal(v: np.ndarray, square: np.ndarray = square) -> np.ndarray:
            return np.fft.ifftn(d**2 * np.fft.fftn(v)) + weight * square * v

        r = np.fft.ifftn(d * np.fft.fftn(f)) + weight * square * z
        p, x = r, np.zeros_like(r)
        rr = (r.conj() * r).sum()
        for _ in range(25):
            q = normal(p)
            alpha = rr / (p.conj() * q).sum()
            x, r = x + alpha * p, r - alpha * q
            rr, old = (r.conj() * r).sum(), rr
            p = r + rr / old * p
        x = x * m
    same(chi, x.real, scene, inner)


def test_half_quadratic(models, scene) -> None:
    """The data step solved exactly in float64: (weight D M D + 1) x = weight D M f + z."""
    runtime, cnn = models(port("x", "chi"), port("y", "chi"), weights(1), {
        "scheme": "half_quadratic", "passes": 2, "weight": 8.0, "step": 1.0, "cg_steps": 40,
    })  # fmt: skip
    chi, record = result(runtime, scene)
    f, m, inner = framed(scene, record)
    d = kernel(f.shape)
    x = through(f, d)
    for _ in range(2):
        z = prox(cnn, x[None], m)[0]
        r = 8.0 * through(m * (f - through(z, d)), d)
        p, change, rr = r, np.zeros_like(r), (r**2).sum()
        for _ in range(150):
            q = 8.0 * through(m * through(p, d), d) + p
            alpha = rr / (p * q).sum()
            change, r = change + alpha * p, r - alpha * q
            rr, old = (r**2).sum(), rr
            p = r + rr / old * p
            if rr < 1e-24:
                break
        x = z + change
    same(chi, x * m, scene, inner)


def test_learned_gradient(models, scene) -> None:
    """x + CNN(x, step D M (f - D x)), from zero."""
    steps = (2.0, 1.0, 0.5)
    runtime, cnn = models(stack("x", "chi", "data_gradient"), port("y", "chi"), weights(2, 1), {
        "scheme": "learned_gradient", "passes": 3, "step": steps, "start": "zero",
    }, residual="add")  # fmt: skip
    chi, record = result(runtime, scene)
    f, m, inner = framed(scene, record)
    d = kernel(f.shape)
    x = np.zeros(f.shape)
    for step in steps:
        g = step * through(m * (f - through(x, d)), d)
        seen = (np.stack([x, g]) - MEAN[:, None, None, None]) / STD[:, None, None, None] * m
        x = x + cnn(seen)[0] * m * STD[0] + MEAN[0]
    same(chi, x * m, scene, inner)
