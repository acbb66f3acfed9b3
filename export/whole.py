"""An unrolled network as one graph, dipole steps and all: to compare with the CNN alone and its physics on the host.

dft     transforms as ONNX's DFT operator
matmul  as products with the matrices cos and sin (2 pi j k / n), made inside the graph from the sizes
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from export.cards import NONE, normalisation, port, size

Transform = Literal["dft", "matmul"]
AXES = (2, 3, 4)
WHOLE_BYTES = 515.0  # peak of the whole graph at 128^3: 1079 MB


def _through_dft(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Real part of F^-1 (kernel F x)."""
    return torch.fft.ifftn(torch.fft.fftn(x, dim=AXES) * kernel, dim=AXES).real


def _through_products(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    real, imag = x, torch.zeros_like(x)
    matrices = [_matrices(x.shape[axis]) for axis in AXES]
    for axis, (cos, sin) in zip(AXES, matrices, strict=True):
        real, imag = _turned(axis, cos, -sin, real, imag)
    real, imag = real * kernel, imag * kernel
    for axis, (cos, sin) in zip(AXES, matrices, strict=True):
        real, imag = _turned(axis, cos, sin, real, imag)
        real, imag = real / x.shape[axis], imag / x.shape[axis]
    return real


def _matrices(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of 2 pi j k / n; j k is taken modulo n, as float32 holds no large angle."""
    j = torch.arange(n)
    count = j[-1] + 1  # as a tensor: no exporter takes a remainder by a symbolic size
    angle = (j[:, None] * j[None, :] % count).to(torch.float32) * (2 * torch.pi / count)
    return torch.cos(angle), torch.sin(angle)


def _turned(
    axis: int, cos: torch.Tensor, sin: torch.Tensor, real: torch.Tensor, imag: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos + i sin applied along an axis."""
    return _along(axis, cos, real) - _along(axis, sin, imag), _along(axis, sin, real) + _along(axis, cos, imag)


def _along(axis: int, matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if axis == 4:
        return torch.matmul(x, matrix)
    return torch.matmul(x.transpose(axis, 4), matrix).transpose(axis, 4)


class Unrolled(nn.Module):
    """Local field, mask, full dipole kernel in FFT order (1, 1, x, y, z) -> chi."""

    mean: torch.Tensor
    std: torch.Tensor
    outside: torch.Tensor

    def __init__(
        self,
        cnn: nn.Module,
        step: float,
        mean: Sequence[float],
        std: Sequence[float],
        outside: Sequence[float],
        passes: int,
        how: Transform,
    ) -> None:
        super().__init__()
        self.cnn, self.step, self.passes = cnn, step, passes
        self.through = _through_dft if how == "dft" else _through_products
        for name, values in (("mean", mean), ("std", std), ("outside", outside)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1, 1))

    def forward(self, field: torch.Tensor, mask: torch.Tensor, dipole: torch.Tensor) -> torch.Tensor:
        start = self.step * self._adjoint(field, dipole)
        x = start
        for k in range(self.passes):
            z = x if k == 0 else x + start - self.step * self._adjoint(self._forward(x, dipole), dipole)
            x = self.cnn((z - self.mean) / self.std * mask) * self.std + self.mean
            x = x * mask + self.outside * (1 - mask)
        return x[:, :1] * mask

    def _adjoint(self, field: torch.Tensor, dipole: torch.Tensor) -> torch.Tensor:
        first = self.through(field, dipole)
        return first if self.mean.shape[1] == 1 else torch.cat([first, field], 1)

    def _forward(self, x: torch.Tensor, dipole: torch.Tensor) -> torch.Tensor:
        first = self.through(x[:, :1], dipole)
        return first if self.mean.shape[1] == 1 else first + x[:, 1:]


def whole(cnn: nn.Module, card: dict[str, Any], how: Transform) -> tuple[nn.Module, dict[str, Any]]:
    """The one graph and its card, from the CNN and its own. Raises ValueError where the physics is no gradient."""
    physics, scale = card["physics"], card["normalisation"]["inputs"]["x"]
    if physics is None or physics["scheme"] != "proximal_gradient":
        raise ValueError(f"{card['name']}: only a proximal gradient can be one graph")
    mean, std = (v if isinstance(v, list) else [v] for v in (scale["mean"], scale["std"]))
    outside = [0.0] * len(mean) if card["normalisation"]["mask_after"] == "restored" else mean
    net = Unrolled(cnn, physics["step"], mean, std, outside, physics["passes"], how)
    name = f"{card['name']}_{how}"
    changed = {
        "name": name,
        "title": f"{card['title']}; whole graph, transforms by {how}",
        "inputs": [port("field", "local_field", "ppm"), port("mask", "mask", "1"), port("dipole", "dipole", "1")],
        "outputs": [port("chi", "chi", "ppm")],
        "normalisation": normalisation({"field": NONE}, {"chi": NONE}),
        "dipole": {"dc": card["dipole"]["dc"], "order": "fft"},
        "size": size(1, smallest=16),
        "patching": {"allowed": False, "patch": None, "crop": [0] * 3, "overlap": [0] * 3, "blend": "crop"},
        "runtime": card["runtime"] | {"bytes_per_voxel": WHOLE_BYTES},
        "physics": None,
    }
    return net, card | changed
