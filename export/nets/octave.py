"""Octave convolutions: half of the channels live at half the resolution, and each half feeds the other.

xQSM    Gao 2021, 10.1002/nbm.4461: U-Net of two poolings, 64 channels, BN after every branch, + input; names as in its
        state dict
BFRnet  Zhu 2023, 10.1016/j.zemedi.2022.08.001: the same family, total field to background field
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool3d, max_pool3d

Pair = tuple[torch.Tensor, torch.Tensor]


def _conv(n_in: int, n_out: int) -> nn.Conv3d:
    return nn.Conv3d(n_in, n_out, 3, padding=1)


def _up(n: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(n, n, 2, stride=2)


class _First(nn.Module):
    """One resolution in, two out."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        half = n_out // 2
        self.convHH, self.convHL = _conv(n_in, half), _conv(n_in, n_out - half)
        self.BN_HH, self.BN_HL = nn.BatchNorm3d(half), nn.BatchNorm3d(n_out - half)

    def forward(self, x: torch.Tensor) -> Pair:
        return torch.relu(self.BN_HH(self.convHH(x))), torch.relu(self.BN_HL(self.convHL(avg_pool3d(x, 2))))


class _Octave(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        a, b = n_in // 2, n_out // 2
        self.convHH, self.convLL = _conv(a, b), _conv(n_in - a, n_out - b)
        self.convHL, self.convLH = _conv(a, n_out - b), _conv(n_in - a, b)
        self.up = _up(b)
        self.BN_HH, self.BN_LH = nn.BatchNorm3d(b), nn.BatchNorm3d(b)
        self.BN_LL, self.BN_HL = nn.BatchNorm3d(n_out - b), nn.BatchNorm3d(n_out - b)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> Pair:
        y_high = self.BN_HH(self.convHH(high)) + self.BN_LH(self.up(self.convLH(low)))
        y_low = self.BN_LL(self.convLL(low)) + self.BN_HL(self.convHL(avg_pool3d(high, 2)))
        return torch.relu(y_high), torch.relu(y_low)


class _Last(nn.Module):
    """Two resolutions in, one channel out."""

    def __init__(self, n: int) -> None:
        super().__init__()
        half = n // 2
        self.convHH, self.convLH = _conv(half, n), _conv(n - half, n)
        self.up = _up(n)
        self.BN_HH, self.BN_LH = nn.BatchNorm3d(n), nn.BatchNorm3d(n)
        self.FinalConv = nn.Conv3d(n, 1, 1)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return self.FinalConv(torch.relu(self.BN_HH(self.convHH(high)) + self.BN_LH(self.up(self.convLH(low)))))


class _Grow(nn.Module):
    """Both resolutions doubled; the low one reaches the high one in one step of four."""

    def __init__(self, n: int) -> None:
        super().__init__()
        high, low = n // 2, n - n // 2
        self.up_HH, self.up_LL = _up(high), _up(low)
        self.up_LH = nn.ConvTranspose3d(low, high, 4, stride=4)
        self.up_HL = _conv(high, low)
        self.BN_H, self.BN_L = nn.BatchNorm3d(high), nn.BatchNorm3d(low)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> Pair:
        y_high = self.up_HH(high) + self.up_LH(low)
        y_low = self.up_LL(low) + self.up_HL(high)
        return torch.relu(self.BN_H(y_high)), torch.relu(self.BN_L(y_low))


class _Encode(nn.Module):
    def __init__(self, n_in: int, n_out: int, first: bool = False) -> None:
        super().__init__()
        self.EncodeConv1 = _First(n_in, n_out) if first else _Octave(n_in, n_out)
        self.EncodeConv2 = _Octave(n_out, n_out)

    def forward(self, *x: torch.Tensor) -> Pair:
        return self.EncodeConv2(*self.EncodeConv1(*x))


class _Middle(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.MidConv1, self.MidConv2 = _Octave(n, 2 * n), _Octave(2 * n, n)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> Pair:
        return self.MidConv2(*self.MidConv1(high, low))


class _Decode(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.up = _Grow(n_in)
        self.DecodeConv1, self.DecodeConv2 = _Octave(2 * n_in, n_in), _Octave(n_in, n_out)

    def forward(self, high: torch.Tensor, low: torch.Tensor, skip: Pair) -> Pair:
        high, low = self.up(high, low)
        return self.DecodeConv2(*self.DecodeConv1(torch.cat([high, skip[0]], 1), torch.cat([low, skip[1]], 1)))


class OctaveUNet(nn.Module):
    """(n, 1, x, y, z) -> the same; sizes in multiples of 2^(depth + 1)."""

    def __init__(self, depth: int = 2, base: int = 64, residual: bool = True) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth)]
        self.InputOct = _Encode(1, base, first=True)
        self.EncodeConvs = nn.ModuleList(_Encode(a, b) for a, b in zip([base, *widths[:-1]], widths, strict=True))
        self.MidConv1 = _Middle(widths[-1])
        self.DecodeConvs = nn.ModuleList(
            _Decode(a, b) for a, b in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)
        )
        self.FinalOct = _Last(base)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pair, skips = self.InputOct(x), []
        for encode in self.EncodeConvs:
            pair = encode(*pair)
            skips.append(pair)
            pair = (max_pool3d(pair[0], 2), max_pool3d(pair[1], 2))
        pair = self.MidConv1(*pair)
        for decode in self.DecodeConvs:
            pair = decode(*pair, skips.pop())
        y = self.FinalOct(*pair)
        return y + x if self.residual else y
