"""3-D U-Nets: two convolutions a level, a skip to each level on the way up.

UNet      names as in the state dicts of iQSM and the U-Net baselines of its authors; with other settings DeepQSM
          (Bollmann 2019, 10.1016/j.neuroimage.2019.03.060), SHARQnet (Bollmann 2019, 10.1016/j.zemedi.2019.01.001),
          QSMGAN's generator (Chen 2020, 10.1016/j.neuroimage.2019.116389), CycleQSM's (Oh 2020, arXiv:2012.03842)
QSMnet    Yoon 2018, 10.1016/j.neuroimage.2018.06.030, and QSMnet+ Jung 2020, 10.1016/j.neuroimage.2020.116619:
          5 levels of 32..512 channels, 5^3 convolutions, BN, LeakyReLU .1; 2^3 transposed convolutions, bare
VNet      AutoQSM's, Wei 2019, 10.1016/j.neuroimage.2019.116064: 16..128 channels, biases, no BN, tanh at the end
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

Layer = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


def _twice(channels: tuple[int, int, int], norm: Norm, act: Layer) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(channels):
        layers += [nn.Conv3d(a, b, 3, padding=1), norm(b), act()]
    return nn.Sequential(*layers)


class _Encode(nn.Module):
    def __init__(self, n_in: int, n_out: int, norm: Norm, act: Layer) -> None:
        super().__init__()
        self.EncodeConv = _twice((n_in, n_out, n_out), norm, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.EncodeConv(x)


class _Middle(nn.Module):
    def __init__(self, n: int, norm: Norm, act: Layer) -> None:
        super().__init__()
        self.MidConv = _twice((n, 2 * n, n), norm, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.MidConv(x)


class _Decode(nn.Module):
    def __init__(self, n_in: int, n_out: int, norm: Norm, act: Layer) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.ConvTranspose3d(n_in, n_in, 2, stride=2), norm(n_in), act())
        self.DecodeConv = _twice((2 * n_in, n_in, n_out), norm, act)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.DecodeConv(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    """(n, c, x, y, z) -> (n, c', x, y, z); sizes in multiples of 2^depth.

    residual  the first input channel is added to the output;  last  applied at the end
    """

    def __init__(
        self,
        depth: int = 4,
        channels_in: int = 1,
        channels_out: int = 1,
        base: int = 16,
        norm: Norm = nn.BatchNorm3d,
        act: Layer = nn.ReLU,
        pool: Layer = lambda: nn.MaxPool3d(2),
        last: Layer = nn.Identity,
        residual: bool = True,
    ) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth)]
        self.EncodeConvs = nn.ModuleList(
            _Encode(a, b, norm, act) for a, b in zip([channels_in, *widths[:-1]], widths, strict=True)
        )
        self.MidConv1 = _Middle(widths[-1], norm, act)
        self.DecodeConvs = nn.ModuleList(
            _Decode(a, b, norm, act) for a, b in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)
        )
        self.FinalConv = nn.Conv3d(widths[0], channels_out, 1)
        self.pool, self.last, self.residual = pool(), last(), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, skips = x[:, :1], []
        for encode in self.EncodeConvs:
            x = encode(x)
            skips.append(x)
            x = self.pool(x)
        x = self.MidConv1(x)
        for decode in self.DecodeConvs:
            x = decode(x, skips.pop())
        x = self.FinalConv(x)
        return self.last(x + first if self.residual else x)


class _NormedConv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n_in, n_out, 5, padding=2)
        self.bn = nn.BatchNorm3d(n_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.bn(self.conv(x)), 0.1)


class QSMnet(nn.Module):
    """Normalised local field (n, 1, x, y, z) -> normalised chi; sizes in multiples of 16. Layers named as published."""

    def __init__(self, base: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        widths = [base * 2**level for level in range(levels + 1)]
        n = 1
        for level, width in enumerate(widths[:-1], 1):
            self.add_module(f"conv{level}1", _NormedConv(n, width))
            self.add_module(f"conv{level}2", _NormedConv(width, width))
            n = width
        self.l_conv1, self.l_conv2 = _NormedConv(n, 2 * n), _NormedConv(2 * n, 2 * n)
        for level in range(levels, 0, -1):
            width, up = widths[level - 1], 2 * levels + 1 - level
            self.add_module(f"deconv{level}", nn.ConvTranspose3d(2 * width, width, 2, stride=2))
            self.add_module(f"conv{up}1", _NormedConv(2 * width, width))
            self.add_module(f"conv{up}2", _NormedConv(width, width))
        self.out = nn.Conv3d(base, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level in range(1, self.levels + 1):
            x = self._pair(f"conv{level}", x)
            skips.append(x)
            x = nn.functional.max_pool3d(x, 2)
        x = self._pair("l_conv", x)
        for level in range(self.levels, 0, -1):
            x = self.get_submodule(f"deconv{level}")(x)
            x = self._pair(f"conv{2 * self.levels + 1 - level}", torch.cat([skips.pop(), x], 1))
        return self.out(x)

    def _pair(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"{name}2")(self.get_submodule(f"{name}1")(x))


class VNet(nn.Module):
    """Total field in ppm (n, 1, x, y, z) -> chi in ppm; sizes in multiples of 8. Modules in the order of the layers."""

    def __init__(self, base: int = 16, depth: int = 3) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(self._pair(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList()
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ModuleList([nn.ConvTranspose3d(a, b, 2, stride=2), self._pair(2 * b, b)]))
        self.last = nn.Conv3d(base, 1, 1)

    @staticmethod
    def _pair(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(a, b, 3, padding=1), nn.ReLU(), nn.Conv3d(b, b, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, pair in enumerate(self.down):
            x = pair(nn.functional.max_pool3d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for grow, pair in self.up:
            x = pair(torch.cat([grow(x), skips.pop()], 1))
        return torch.tanh(self.last(x))
