"""iQSM+ (Gao 2024, 10.1016/j.media.2024.103160): iQSM whose every convolution is told the direction of B0.

The direction becomes five numbers e; each 3^3 convolution of the U-Net becomes conv(x) + a(e) (w(e) * sum_c x_c) + b(e)
with one 3^3 kernel w, and a scale a and a shift b for each output channel, before its BN and ReLU. Parameters are named
as in the published state dicts.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import conv3d, max_pool3d

from export.nets.iqsm import KERNELS, LoT

EMBEDDED, HIDDEN = 5, 10


def _from_embedding(count: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(EMBEDDED, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, count))


class _Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embd = _from_embedding(27)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return conv3d(x.sum(1, keepdim=True), self.embd(e).reshape(1, 1, 3, 3, 3), padding=1)


class _ScaleShift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embd = _from_embedding(2 * channels)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        scale, shift = self.embd(e)[:, :, None, None, None].chunk(2, dim=1)
        return x * scale + shift


class _Told(nn.Module):
    """A convolution that knows the embedded direction."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.embed_hwd, self.embed_c = _Kernel(), _ScaleShift(n_out)
        self.EncodeConv = nn.Sequential(nn.Conv3d(n_in, n_out, 3, padding=1))
        self.BN_RELU = nn.Sequential(nn.BatchNorm3d(n_out), nn.ReLU())

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return self.BN_RELU(self.EncodeConv(x) + self.embed_c(self.embed_hwd(x, e), e))


class _Twice(nn.Module):
    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.embd_layer1, self.embd_layer2 = (_Told(a, b) for a, b in pairwise(channels))

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return self.embd_layer2(self.embd_layer1(x, e), e)


class _Decode(_Twice):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(2 * n_in, n_in, n_out)
        self.up = nn.Sequential(nn.ConvTranspose3d(n_in, n_in, 2, stride=2), nn.BatchNorm3d(n_in), nn.ReLU())

    def forward_with(self, x: torch.Tensor, skip: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return self.forward(torch.cat([self.up(x), skip], 1), e)


class _UNet(nn.Module):
    def __init__(self, base: int, depth: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth)]
        self.Z_embed = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, EMBEDDED))
        self.ini_embd_layer = _Told(1 + KERNELS, 1 + KERNELS)
        self.EncodeConvs = nn.ModuleList(_Twice(a, b, b) for a, b in pairwise([1 + KERNELS, *widths]))
        self.MidConv1 = _Twice(widths[-1], 2 * widths[-1], widths[-1])
        downwards = [*widths[::-1], widths[0]]
        self.DecodeConvs = nn.ModuleList(_Decode(a, b) for a, b in pairwise(downwards))
        self.FinalConv = nn.Conv3d(widths[0], 1, 1)

    def forward(self, x: torch.Tensor, b0_dir: torch.Tensor) -> torch.Tensor:
        e, first, skips = self.Z_embed(b0_dir), x[:, :1], []
        x = self.ini_embd_layer(x, e)
        for encode in self.EncodeConvs:
            x = encode(x, e)
            skips.append(x)
            x = max_pool3d(x, 2)
        x = self.MidConv1(x, e)
        for decode in self.DecodeConvs:
            x = decode.forward_with(x, skips.pop(), e)
        return self.FinalConv(x) + first


class IQSMPlus(nn.Module):
    """phase rad, mask, echo_time s, b0 T, b0_dir (n, 3) -> chi ppm; arrays (n, 1, x, y, z). Multiples of 16."""

    def __init__(self, base: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.Unet = _UNet(base, depth)
        self.LoT_Layer = LoT()

    def forward(
        self,
        phase: torch.Tensor,
        mask: torch.Tensor,
        echo_time: torch.Tensor,
        b0: torch.Tensor,
        b0_dir: torch.Tensor,
    ) -> torch.Tensor:
        return self.Unet(self.LoT_Layer(phase, mask, echo_time, b0), b0_dir) / 4
