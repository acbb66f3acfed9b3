"""What a map is trained for: values, edges, local structure (1 - XSIM), and a field that explains the data."""

import torch
import torch.nn.functional as F
from torch import Tensor

from export.train.dipole_net import convolve, dipole
from qsm_runtime.metrics import XSIM_C1, XSIM_C2

WINDOW, STRIDE = 5, 2


def window_mean(a: Tensor) -> Tensor:
    """Means over 5^3 voxels of (n, x, y, z), at every second voxel."""
    a = F.pad(a, (WINDOW // 2,) * 6)
    for axis in (1, 2, 3):
        size = (a.shape[axis] - WINDOW) // STRIDE + 1
        parts = [a.narrow(axis, k, STRIDE * (size - 1) + 1) for k in range(WINDOW)]
        parts = [part[(slice(None),) * axis + (slice(None, None, STRIDE),)] for part in parts]
        a = sum(parts[1:], parts[0])
    return a / WINDOW**3


def xsim(x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """qsm_runtime.metrics.xsim for maps (x, y, z) in ppm, at every second voxel."""
    mx, xx, xt = window_mean(torch.stack((x, x * x, x * t)))
    mt, tt = window_mean(torch.stack((t, t * t)))
    vx, vt, c = xx - mx**2, tt - mt**2, xt - mx * mt
    s = (2 * mx * mt + XSIM_C1) * (2 * c + XSIM_C2) / ((mx**2 + mt**2 + XSIM_C1) * (vx + vt + XSIM_C2))
    mask = mask[::STRIDE, ::STRIDE, ::STRIDE]
    return (s * mask).sum() / mask.sum()


def differences(a: Tensor) -> Tensor:
    return torch.stack([torch.diff(a, dim=axis).abs().sum() for axis in range(3)]).sum()


def dipole_model(x: Tensor, s: dict[str, Tensor]) -> Tensor:
    """Mean of |W (D x - D chi)| over the mask: the field that the map makes, against the true map's."""
    shape = tuple(int(n) for n in s["fft_shape"])
    d = dipole(shape, s["voxel_mm"], s["b0_dir"])  # type: ignore[arg-type]
    wrong = convolve(x - s["chi"], d, shape)  # type: ignore[arg-type]
    return (wrong.abs() * s["mask"]).sum() / s["mask"].sum()


def loss(x: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Sum of the terms, each of order one, and the terms."""
    t, mask = s["chi"], s["mask"]
    count = mask.sum()
    unit = 0.02  # ppm: about the contrast of tissue
    value = (x - t).abs().sum() / count / unit
    edges = differences(x - t) / count / unit / 3
    square = ((x - t) ** 2).sum() / ((t - (t.sum() / count) * mask) ** 2).sum()
    structure = 1 - xsim(x, t, mask)
    field = dipole_model(x, s) / unit
    total = value + edges + 4 * structure + 2 * (square + 1e-8).sqrt().clamp(max=1) + 0.5 * field
    terms = {"value": value, "edges": edges, "structure": structure, "square": square, "field": field}
    return total, {k: float(v.detach()) for k, v in terms.items()}
