"""MoDL-QSM, MoG-QSM and SpiNet-QSM from their published checkpoints, through ONNX and the host's physics, against a
reference loop that shares nothing with them: numpy's complex transforms, the dipole's formula and torch, in float64."""

import copy
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from export import package
from export.catalogue import NETWORKS
from export.spec import read_statistics
from qsm_runtime.grid import Grid
from qsm_runtime.inversion.network import network
from qsm_runtime.networks.compute import frame_of
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head

SHARED = Path(os.environ.get("QSM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
WEIGHTS = SHARED.parent / "weights"
FILES = {
    "modl": ("modl_qsm.h5", "modl_qsm_norm.mat"),
    "mog": ("mog_qsm.h5", "mog_qsm_norm.mat"),
    "spinet": ("spinet_qsm.pth", None),
}
SPINET = {"mean": -0.0027, "std": 0.0289}  # published in its code, not beside its weights
GRID = Grid((26, 28, 24), (1.0, 1.0, 1.0), (0.1, 0.2, 0.97))
PASSES, CG_STEPS = 3, 25


def dipole(shape, voxel_mm, b0_dir, dc):
    """1/3 - (k.b / |k|)^2; a Nyquist frequency is one of either sign: the mean over both."""
    signs = itertools.product((1, -1), repeat=3)
    return np.mean([_dipole(shape, voxel_mm, b0_dir, dc, s) for s in signs], axis=0)


def _dipole(shape, voxel_mm, b0_dir, dc, nyquist):
    axes = [np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_mm, strict=True)]
    for axis, n, sign in zip(axes, shape, nyquist, strict=True):
        axis[n // 2] *= sign if n % 2 == 0 else 1
    k = np.meshgrid(*axes, indexing="ij")
    along = sum(a * b for a, b in zip(k, b0_dir, strict=True))
    square = sum(a * a for a in k)
    with np.errstate(invalid="ignore"):
        d = 1 / 3 - along**2 / square
    d[0, 0, 0] = dc
    return d


def through(d, x):
    return np.fft.ifftn(d * np.fft.fftn(x))


def gradient(cnn, found, field, mask, d):
    """MoDL, MoG: z = x + step A^T (f - A x), x = CNN((z - mean) / std mask) mask std + mean."""
    mean, std = (np.reshape(found[name], (-1, 1, 1, 1)) for name in ("mean", "std"))
    channels, step = len(mean), found["step"]

    def adjoint(f):
        return np.stack([through(d, f).real, f][:channels])

    def forward(x):
        return through(d, x[0]).real + (x[1] if channels == 2 else 0)

    x = None
    for _ in range(PASSES):
        z = step * adjoint(field) if x is None else x + step * adjoint(field - forward(x))
        x = cnn((z - mean) / std * mask) * mask * std + mean
    return x[0]


def schatten(cnn, found, field, mask, d):
    """SpiNet: z = CNN(x mask), (D^2 + lambda |x - z|^(p - 2)) x = D f + lambda |x - z|^(p - 2) z by CG from zero."""
    x = through(d, field)
    for _ in range(PASSES):
        x = x * mask
        parts = cnn((np.stack([x.real, x.imag]) - found["mean"]) / found["std"]) * found["std"] + found["mean"]
        z = parts[0] + 1j * parts[1]
        pull = found["lambda_val"] * np.abs(x - z) ** (found["p"] - 2)
        rest = through(d, field) + pull * z
        x, along, square = np.zeros_like(z), rest, np.vdot(rest, rest).real
        for _ in range(CG_STEPS):
            turned = through(d * d, along) + pull * along
            size = square / np.vdot(along, turned).real
            x, rest = x + size * along, rest - size * turned
            before, square = square, np.vdot(rest, rest).real
            along = rest + square / before * along
    return x.real


@pytest.mark.parametrize("name", FILES)
def test_published_network_is_its_reference_loop(name: str, tmp_path: Path) -> None:
    weights, statistics = FILES[name]
    if not (WEIGHTS / weights).exists():
        pytest.skip(f"published weights not found at {WEIGHTS} (set QSM_SHARED_DATA)")
    spec = NETWORKS[name]
    net = spec.build()
    found = {**spec.load(WEIGHTS / weights, net)}
    found |= SPINET if statistics is None else read_statistics(WEIGHTS / statistics, spec.statistics)
    exact = copy.deepcopy(net).double().eval()
    card = package.write(tmp_path, net, spec.card(found))

    truth = simulate_head(GRID, oversample=1).truth
    runtime = Runtime("ort-cpu", models=(tmp_path,))
    chi = network(truth.local_ppm, truth.mask, GRID, model=name, runtime=runtime)

    frame = frame_of(card, truth.mask, GRID)  # the box of the mask with a margin: transforms are periodic on it
    d = dipole(frame.shape, frame.voxel_mm, frame.b0_dir, 1 / 3 if name == "spinet" else 0.0)
    field = frame.put(truth.local_ppm).astype(float) * frame.mask

    def cnn(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return exact(torch.from_numpy(x)[None])[0].numpy()

    loop = schatten if name == "spinet" else gradient
    exact_chi = (loop(cnn, found, field, frame.mask, d) * frame.mask).astype(np.float32)
    wanted = np.where(truth.mask, frame.take(exact_chi), 0)
    error = np.abs(chi - wanted).max() / np.ptp(wanted)
    print(f"{name}: {error:.1e} of the range {np.ptp(wanted):.3f} ppm")
    assert error < 1e-4
