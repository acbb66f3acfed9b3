"""Phase unwrapping by bidirectional recurrent modules (Ryu 2019, ISMRM 27:4707).

A convolution sees its receptive field only, while a wrap count depends on the whole line to it: so a U-Net's features
pass recurrent modules that sweep each line of a slice both ways, along y, then along x. Slices along z are independent.
The abstract gives no layer sizes and no weights are public: the widths are this definition's.
"""

import torch
from torch import nn


class _Conv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


class _Sweep(nn.Module):
    """Both ways along the last axis of (n, c, x, y), each line by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(channels, channels // 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        lines, _ = self.rnn(x.permute(0, 2, 3, 1).reshape(n * h, w, c))
        return lines.reshape(n, h, w, c).permute(0, 3, 1, 2)


class UnwrapBiRNN(nn.Module):
    """Wrapped phase in rad (1, 1, x, y, z) -> unwrapped phase in rad up to a constant; x, y in multiples of 4."""

    def __init__(self, base: int = 32) -> None:
        super().__init__()
        self.down1, self.down2 = _Conv(3, base), _Conv(base, 2 * base)
        self.middle = _Conv(2 * base, 4 * base)
        self.along_y, self.along_x = _Sweep(4 * base), _Sweep(4 * base)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * base, 2 * base, 2, 2), nn.ConvTranspose2d(2 * base, base, 2, 2)
        self.join2, self.join1 = _Conv(4 * base, 2 * base), _Conv(2 * base, base)
        self.last = nn.Conv2d(base, 1, 1)

    def forward(self, phase: torch.Tensor) -> torch.Tensor:
        slices = phase[0].permute(3, 0, 1, 2)
        a = self.down1(torch.cat([slices / torch.pi, torch.cos(slices), torch.sin(slices)], 1))
        b = self.down2(nn.functional.max_pool2d(a, 2))
        x = self.middle(nn.functional.max_pool2d(b, 2))
        x = self.along_y(x)
        x = self.along_x(x.transpose(2, 3)).transpose(2, 3)
        x = self.join2(torch.cat([self.up2(x), b], 1))
        x = self.join1(torch.cat([self.up1(x), a], 1))
        return self.last(x).permute(1, 2, 3, 0)[None]
