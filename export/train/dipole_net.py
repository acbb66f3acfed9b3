"""The network of `dipole` and the loop around it in torch, differentiable; inference runs the loop on the host.

A U-Net that works on blocks of 2 x 2 x 2 voxels, without bias or normalisation: homogeneous, N(a x) = a N(x), a > 0.
The loop is qsm_runtime.networks.learned_proximal's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsm_runtime.kernels.dipole import dipole_kernel
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


class Loop(nn.Module):
    """The unrolled scheme; `forward` gives the map after each pass. Gradients flow through the last pass alone."""

    def __init__(self, net: DipoleNet, ridge: float = RIDGE, half: bool = True) -> None:
        super().__init__()
        self.net, self.ridge, self.half = net, ridge, half

    def forward(self, s: dict[str, Tensor], passes: int = PASSES) -> list[Tensor]:
        mask, x = s["mask"], s["start"]
        shape = tuple(int(n) for n in s["fft_shape"])
        d = dipole(shape, s["voxel_mm"], s["b0_dir"])  # type: ignore[arg-type]
        step, close = d / (d * d + self.ridge), d / (d * d + DATA_RIDGE)
        size = (x.abs().sum() / mask.sum()) * mask
        pad = [p for n in reversed(x.shape) for p in (0, -n % MULTIPLE)]
        nx, ny, nz = x.shape
        edge = convolve(mask, d, shape)  # type: ignore[arg-type]
        weighted = s["weight2"] * edge
        power = (weighted * edge).sum()

        def levelled(x: Tensor) -> tuple[Tensor, Tensor]:
            y = convolve(x, d, shape)  # type: ignore[arg-type]
            level = LEVEL_STEP * (weighted * (s["field"] - y)).sum() / power
            return x + level * mask, y + level * edge

        out = []
        x, y = levelled(x)
        for k in range(passes):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k == passes - 1):
                residual = s["field"] - y
                h = convolve(s["weight2"] * residual, step, shape) * mask  # type: ignore[arg-type]
                g = convolve(s["kept2"] * residual, d, shape) * mask  # type: ignore[arg-type]
                seen = F.pad(torch.stack((x, h, g, s["deviation"], size))[None], pad)
                seen = seen.contiguous(memory_format=torch.channels_last_3d)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.half):  # 6 x as fast with AVX512_BF16
                    change = self.net(seen)[0, 0, :nx, :ny, :nz]
                x = x + change.float() * mask
                residual = s["weight2"] * (s["field"] - convolve(x, d, shape))  # type: ignore[arg-type]
                x, y = levelled(x + convolve(residual, close, shape) * mask)  # type: ignore[arg-type]
            out.append(x)
        return out
