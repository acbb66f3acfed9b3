"""The learned part of VaNDI (Polak 2020, 10.1002/nbm.4271), a variational network (Hammernik 2018, 10.1002/mrm.26977).

A pass takes from chi the gradient of the data term, on the host, and that of a learned field-of-experts prior, here:
R(chi) = sum_i K_i^T phi_i(K_i chi), with 3-D filters K_i and activations phi_i of Gaussian radial basis functions, all
of the pass's own. One graph serves every pass: its number is an input. The paper gives no public weights.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv3d, conv_transpose3d


class VariationalPrior(nn.Module):
    """chi, step times the data gradient (1, 1, x, y, z), number of the pass -> the next chi.

    All in standardised units; `steps` belong to the data gradient and are applied on the host.
    """

    def __init__(self, passes: int = 10, filters: int = 24, size: int = 5, functions: int = 31, reach: float = 4.0):
        super().__init__()
        self.steps = nn.Parameter(torch.ones(passes))
        self.kernels = nn.Parameter(torch.randn(passes, filters, 1, size, size, size) / size**1.5)
        self.weights = nn.Parameter(torch.randn(passes, functions, filters, 1, 1, 1) / functions)
        self.centres = np.linspace(-reach, reach, functions).tolist()
        self.width = 2 * reach / (functions - 1)

    def forward(self, x: torch.Tensor, gradient: torch.Tensor, pass_index: torch.Tensor) -> torch.Tensor:
        kernels, weights = (torch.index_select(p, 0, pass_index.reshape(1))[0] for p in (self.kernels, self.weights))
        half = kernels.shape[-1] // 2
        seen = conv3d(x, kernels, padding=half)
        out = torch.zeros_like(seen)
        for j, centre in enumerate(self.centres):
            out = out + weights[j] * torch.exp(-0.5 * ((seen - centre) / self.width) ** 2)
        return x + gradient - conv_transpose3d(out, kernels, padding=half)
