"""iQSM (Gao 2022, 10.1016/j.neuroimage.2022.119410): wrapped phase to chi through learned Laplacians and a U-Net.

For each of 16 learned 3^3 kernels L, Im(exp(-i phi) (L * exp(i phi))) = Im(L e) cos phi - Re(L e) sin phi does not see
wraps; times the mask and 3 T 20 ms / (B0 TE). The first kernel's result is the U-Net's residual channel. Their border
voxels are zero: a convolution without padding, then a frame of zeros (the published code indexes h - 1, which an
exporter turns into a constant).
"""

import torch
from torch import nn
from torch.nn.functional import conv3d, pad

from export.nets.unet import UNet

KERNELS = 15
REFERENCE_T_S = 3.0 * 20e-3


class LoT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        laplacian = torch.zeros(1, 1, 3, 3, 3)
        laplacian[0, 0, 1, 1, 1] = -6
        for i, j, k in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)):
            laplacian[0, 0, i, j, k] = 1
        self.conv_x = nn.Parameter(laplacian)
        self.conv_y = nn.Parameter(laplacian.repeat(KERNELS, 1, 1, 1, 1))

    def forward(
        self, phase: torch.Tensor, mask: torch.Tensor, echo_time: torch.Tensor, b0: torch.Tensor
    ) -> torch.Tensor:
        kernels = torch.cat([self.conv_x, self.conv_y])
        cos, sin = torch.cos(phase), torch.sin(phase)
        lap_cos, lap_sin = (pad(conv3d(v, kernels), (1,) * 6) for v in (cos, sin))
        return (lap_sin * cos - lap_cos * sin) * mask * (REFERENCE_T_S / (b0 * echo_time))


class IQSM(nn.Module):
    """phase rad, mask, echo_time s, b0 T -> chi ppm; arrays (n, 1, x, y, z), scalars without axes. Multiples of 16."""

    def __init__(self, base: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.Unet = UNet(depth, 1 + KERNELS, 1, base)
        self.LoT_Layer = LoT()

    def forward(
        self, phase: torch.Tensor, mask: torch.Tensor, echo_time: torch.Tensor, b0: torch.Tensor
    ) -> torch.Tensor:
        return self.Unet(self.LoT_Layer(phase, mask, echo_time, b0)) / 4
