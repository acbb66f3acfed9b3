"""The network of `dipole` and the loop around it in torch, differentiable; inference runs the loop on the host.

A U-Net that works on blocks of 2 x 2 x 2 voxels, without bias or normalisation: homogeneous, N(a x) = a N(x), a > 0.
The loop is qsm_runtime.networks.learned_proximal's.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.images import Images
from qsm_runtime.networks.learned_proximal import CHANNELS, DATA_RIDGE, LEVEL_STEP, PASSES, RIDGE

WIDTHS = (32, 64, 96)
MULTIPLE = 8
GAIN = (1.0, 1.0, 2.0, 5.0, 1.0)  # of the channels, so that all are of about one size


def conv(cin: int, cout: int) -> nn.Conv3d:
    return nn.Conv3d(cin, cout, 3, padding=1, bias=False)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))"""

    def __init__(self, width: int, scale: float = 0.1) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)
        with torch.no_grad():
            self.second.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class DipoleNet(nn.Module):
    """(batch, 5, x, y, z) to (batch, 1, x, y, z), sizes multiples of 8."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS, channels: int = len(CHANNELS)) -> None:
        super().__init__()
        a, b, c = widths
        self.register_buffer("gain", torch.tensor(GAIN[:channels]).view(1, -1, 1, 1, 1), persistent=False)
        self.stem = nn.Conv3d(channels, a, 2, stride=2, bias=False)
        self.enter = conv(a, a)
        self.down1 = nn.Conv3d(a, b, 2, stride=2, bias=False)
        self.middle = Residual(b)
        self.down2 = nn.Conv3d(b, c, 2, stride=2, bias=False)
        self.deep = nn.Sequential(Residual(c), Residual(c))
        self.up2 = nn.ConvTranspose3d(c, b, 2, stride=2, bias=False)
        self.after = conv(b, b)
        self.up1 = nn.ConvTranspose3d(b, a, 2, stride=2, bias=False)
        self.leave = conv(a, a)
        self.out = nn.ConvTranspose3d(a, 1, 2, stride=2, bias=False)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x * self.gain)
        fine = stem + self.enter(F.relu(stem))
        mid = self.middle(self.down1(F.relu(fine)))
        deep = self.deep(self.down2(F.relu(mid)))
        mid = mid + self.up2(F.relu(deep))
        mid = mid + self.after(F.relu(mid))
        fine = fine + self.up1(F.relu(mid))
        fine = fine + self.leave(F.relu(fine))
        return self.out(F.relu(fine))


def dipole(shape: tuple[int, int, int], voxel_mm: Tensor, b0_dir: Tensor) -> Tensor:
    """D on the half spectrum, float32: the runtime's own."""
    voxel, b0 = ([float(v) for v in a] for a in (voxel_mm, b0_dir))
    return torch.from_numpy(dipole_kernel(shape, (voxel[0], voxel[1], voxel[2]), (b0[0], b0[1], b0[2])))


def convolve(x: Tensor, real_filter: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """F^-1 filter F of a crop that lies in the low corner of `shape`."""
    nx, ny, nz = x.shape
    return torch.fft.irfftn(torch.fft.rfftn(x, s=shape) * real_filter, s=shape)[:nx, :ny, :nz]


def images_of(s: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """kernels/images.py for a sample; no gradient flows through it."""
    shape, voxel, b0, fft = (
        [float(v) for v in a] for a in (s["mask"].shape, s["voxel_mm"], s["b0_dir"], s["fft_shape"])
    )
    size, box = tuple(int(n) for n in shape), tuple(int(n) for n in fft)
    images = Images(Box((0, 0, 0), size, box), Grid(size, tuple(voxel), tuple(b0)))  # type: ignore[arg-type]
    return lambda x: torch.from_numpy(images(np.ascontiguousarray(x.detach().numpy())))


def free_field(
    residual: Tensor, weight2: Tensor, mask: Tensor, d: Tensor, shape: tuple[int, int, int], steps: int
) -> Tensor:
    """Field of sources outside the mask that explains the residual: networks/joint_proximal.FreeSources."""
    nx, ny, nz = residual.shape
    outside = torch.ones(shape)
    outside[:nx, :ny, :nz] = 1 - mask

    def field(q: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(q) * d, s=shape)[:nx, :ny, :nz]

    def adjoint(r: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(weight2 * r, s=shape) * d, s=shape) * outside

    with torch.no_grad():
        h, r = torch.zeros_like(residual), residual
        s = adjoint(r)
        way, size = s, (s * s).sum()
        for k in range(steps):
            made = field(way)
            a = size / (weight2 * made * made).sum().clamp(min=1e-30)
            h = h + a * made
            if k + 1 < steps:
                r = r - a * made
                s = adjoint(r)
                size, old = (s * s).sum(), size
                way = s + size / old.clamp(min=1e-30) * way
    return h


class Loop(nn.Module):
    """The unrolled scheme; `forward` gives the map after each pass. Gradients flow through the last pass alone.

    level_step  share of the level's step that is taken
    free_steps  conjugate-gradient steps for sources outside the mask after each pass (networks/joint_proximal.py);
                0: the field is a local one. No gradient flows through them.
    """

    def __init__(
        self,
        net: DipoleNet,
        ridge: float = RIDGE,
        half: bool = True,
        data_ridge: float = DATA_RIDGE,
        level_step: float = LEVEL_STEP,
        free_steps: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.ridge, self.half = net, ridge, half
        self.data_ridge, self.level_step, self.free_steps = data_ridge, level_step, free_steps

    def forward(self, s: dict[str, Tensor], passes: int = PASSES) -> list[Tensor]:
        mask, x, field = s["mask"], s["start"], s["field"]
        shape = tuple(int(n) for n in s["fft_shape"])
        d = dipole(shape, s["voxel_mm"], s["b0_dir"])  # type: ignore[arg-type]
        step, close = d / (d * d + self.ridge), d / (d * d + self.data_ridge)
        size = (x.abs().sum() / mask.sum()) * mask
        pad = [p for n in reversed(x.shape) for p in (0, -n % MULTIPLE)]
        nx, ny, nz = x.shape
        images = torch.zeros_like if self.free_steps else images_of(s)
        of_mask = images(mask)
        edge = convolve(mask, d, shape) - of_mask  # type: ignore[arg-type]
        weighted = s["kept2"] * edge
        power = (weighted * edge).sum()

        def levelled(x: Tensor) -> tuple[Tensor, Tensor]:
            """x and D x, the field of free space; the images are those of the last network's map."""
            y = convolve(x, d, shape) - around  # type: ignore[arg-type]
            level = self.level_step * (weighted * (field - y)).sum() / power
            return x + level * mask, y + level * edge

        out = []
        around = images(x)
        x, y = levelled(x)
        for k in range(passes):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k == passes - 1):
                residual = field - y
                h = convolve(s["weight2"] * residual, step, shape) * mask  # type: ignore[arg-type]
                g = convolve(s["kept2"] * residual, d, shape) * mask  # type: ignore[arg-type]
                seen = F.pad(torch.stack((x, h, g, s["deviation"], size))[None], pad)
                seen = seen.contiguous(memory_format=torch.channels_last_3d)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.half):  # 6 x as fast with AVX512_BF16
                    change = self.net(seen)[0, 0, :nx, :ny, :nz]
                x = x + change.float() * mask
                around = images(x)
                residual = field + around - convolve(x, d, shape)  # type: ignore[arg-type]
                if self.free_steps:
                    found = free_field(residual.detach(), s["weight2"], mask, d, shape, self.free_steps)  # type: ignore[arg-type]
                    field, residual = field - found, residual - found
                x = x + convolve(s["weight2"] * residual, close, shape) * mask  # type: ignore[arg-type]
                x, y = levelled(x)
            out.append(x)
        return out
