"""The wide residual CNN that LPCNN, MoDL-QSM, MoG-QSM and SpiNet-QSM unroll as a proximal map.

conv3(c -> 32) ReLU, 8 x {conv3 BN ReLU conv3 BN, + input, ReLU}, conv1 ReLU, conv1 ReLU, conv1(32 -> c). The physics
between its passes stays on the host; it is described in the card.

LPCNN       Lai 2020,       10.1007/978-3-030-59713-9_13    1 channel
MoDL-QSM    Feng 2021,      10.1016/j.neuroimage.2021.118376   2 channels: chi33, and the field of chi13 and chi23
MoG-QSM     Feng 2021,      arXiv:2101.08413                   1 channel
SpiNet-QSM  Venkatesh 2024, 10.1007/s10334-024-01158-7                2 channels: real and imaginary part
"""

import torch
from torch import nn


class ResidualBlock(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(width, eps=eps)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class ProximalCNN(nn.Module):
    """Normalised, masked estimate (n, c, x, y, z) -> its proximal map, same shape and scale.

    `eps` is the framework's that trained the weights: 1e-5 in torch, 1e-3 in Keras. `last_bias` likewise.
    """

    def __init__(self, channels: int = 1, width: int = 32, blocks: int = 8, eps: float = 1e-5, last_bias: bool = False):
        super().__init__()
        self.gen = nn.Sequential(
            nn.Conv3d(channels, width, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Sequential(*(ResidualBlock(width, eps) for _ in range(blocks))),
            nn.Conv3d(width, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv3d(width, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv3d(width, channels, 1, bias=last_bias),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gen(x)
