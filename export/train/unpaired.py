"""Training without the truth of a scan: the field must be explained, and the map must look like a map of another one.

CycleQSM: Oh 2020, 10.48550/arXiv.2007.03480. The dipole is known, so of the cycle's two generators one is D itself and
needs no training, and a critic is needed for maps alone. Here the generator is a pass of the loop; least-squares
adversarial loss: Mao 2017, 10.1109/ICCV.2017.304.
"""

from typing import Any

import torch
from torch import Tensor, nn

from export.train.dipole_net import convolve, dipole

WIDTH = 16
UNIT_PPM = 0.02
ADVERSARIAL, SMOOTH = 0.2, 0.02  # over the field's term


class Critic(nn.Module):
    """How much each part of a map looks like a true one: (1, 1, x, y, z) to a coarser (1, 1, x, y, z)."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.layers = nn.Sequential(
            nn.Conv3d(1, w, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv3d(w, 2 * w, 4, stride=2, padding=1), nn.InstanceNorm3d(2 * w), nn.LeakyReLU(0.2),
            nn.Conv3d(2 * w, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, chi_ppm: Tensor) -> Tensor:
        return self.layers(chi_ppm / UNIT_PPM)


class Unpaired:
    """A critic with its optimiser, and the loss that takes the place of losses.loss."""

    def __init__(self, rate: float = 2e-4) -> None:
        self.critic = Critic()
        self.optimiser = torch.optim.Adam(self.critic.parameters(), rate, betas=(0.5, 0.9))

    def loss(self, x: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """For a map (x, y, z) of sample `s`, whose truth is not looked at."""
        shape = tuple(int(n) for n in s["fft_shape"])
        made = convolve(x, dipole(shape, s["voxel_mm"], s["b0_dir"]), shape)  # type: ignore[arg-type]
        cycle = (s["kept2"] * (made - s["field"]).abs()).sum() / s["mask"].sum() / UNIT_PPM
        seen = self.critic(x[None, None])
        fooled = ((seen - 1) ** 2).mean()
        smooth = sum(torch.diff(x, dim=a).abs().sum() for a in range(3)) / s["mask"].sum() / UNIT_PPM
        total = cycle + ADVERSARIAL * fooled + SMOOTH * smooth
        return total, {"cycle": float(cycle.detach()), "fooled": float(fooled.detach())}

    def learn(self, x: Tensor, other_chi_ppm: Tensor) -> float:
        """One step of the critic: a made map against a true one of another sample."""
        true, made = self.critic(other_chi_ppm[None, None]), self.critic(x.detach()[None, None])
        wrong = 0.5 * ((true - 1) ** 2).mean() + 0.5 * (made**2).mean()
        self.optimiser.zero_grad(set_to_none=True)
        wrong.backward()
        self.optimiser.step()
        return float(wrong.detach())

    def state(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load(self, kept: dict[str, Any]) -> None:
        self.critic.load_state_dict(kept["critic"])
        self.optimiser.load_state_dict(kept["optimiser"])
