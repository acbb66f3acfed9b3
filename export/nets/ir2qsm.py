"""IR2QSM (Li 2024, arXiv:2406.12300): a U-Net of 16..128 channels run four times with weights of its own each time.

Reverse concatenation: from the second round on, each encoder level also sees the last round's decoder at its level.
The middle is a simple recurrent unit across rounds, h' = h (1 - u) + o u with u = sigmoid(U x), o = O x. Every round
adds the input; a 1^3 convolution joins the rounds' outputs. The published code draws noise into the decoder's output
even at inference; that is left out here, as a reconstruction must not depend on chance. Names as in its state dict,
with the layers that it declares and never uses.
"""

import torch
from torch import nn


class _Conv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv3d(n_in, n_out, 3, padding=1), nn.BatchNorm3d(n_out), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Deconv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.deconv = nn.Sequential(nn.ConvTranspose3d(n_in, n_out, 2, stride=2), nn.BatchNorm3d(n_out), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deconv(x)


class _Recurrent(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.update_gate, self.out_gate = _Conv(n, n), _Conv(n, n)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        update = torch.sigmoid(self.update_gate(x))
        return h * (1 - update) + self.out_gate(x) * update


class IR2QSM(nn.Module):
    """Local field in ppm (n, 1, x, y, z) -> chi in ppm; sizes in multiples of 8."""

    def __init__(self, rounds: int = 4, depth: int = 4, base: int = 16) -> None:
        super().__init__()
        self.rounds, self.depth = rounds, depth
        widths = [base * 2**level for level in range(depth)]
        for i in range(rounds):
            self._add(f"iteration{i}_pre_transform", _Conv(1, base), nn.Identity(), _Conv(base, base))
            for level, n in enumerate(widths[:-1]):
                name = f"iteration{i}_layer{level}_encoder"
                self.add_module(f"{name}_conv1", _Conv(2 * n, n))
                self._add(f"{name}_conv2", nn.Identity(), _Conv(n, n))
                self._add(f"{name}_down", _Conv(n, 2 * n), nn.MaxPool3d(2))
            self.add_module(f"iteration{i}_middle", _Recurrent(widths[-1]))
            for level, n in enumerate(widths[:0:-1]):
                name = f"iteration{i}_layer{level}_decoder"
                self.add_module(f"{name}_up", _Deconv(n, n // 2))
                self._add(f"{name}_convs", _Conv(n, n), nn.Identity(), _Conv(n, n // 2))
            self._add(f"iteration{i}_post_transform", _Conv(base, base), nn.Conv3d(base, 1, 1))
        self.post_transform_conv_block2 = nn.Sequential(nn.Conv3d(rounds, 1, 1))
        self.post_transform_conv_block1 = nn.Sequential(  # declared, not used
            nn.Conv3d(base * rounds, base, 3, padding=1), nn.ReLU(), nn.BatchNorm3d(base), _Conv(base, base),
            nn.Conv3d(base, 1, 1),
        )  # fmt: skip

    def _add(self, name: str, *layers: nn.Module) -> None:
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        x, h = field, None
        outputs: list[torch.Tensor] = []
        decoded: list[torch.Tensor] = []
        for i in range(self.rounds):
            x, encoded = self._encode(i, self.get_submodule(f"iteration{i}_pre_transform")(x), decoded)
            h = self.get_submodule(f"iteration{i}_middle")(x, x if h is None else h)
            x, decoded = self._decode(i, h, encoded)
            x = self.get_submodule(f"iteration{i}_post_transform")(x) + field
            outputs.append(x)
        return self.post_transform_conv_block2(torch.cat(outputs, 1)) + field

    def _encode(self, i: int, x: torch.Tensor, decoded: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`decoded`: of the last round, finest last; empty in the first."""
        encoded = []
        for level in range(self.depth - 1):
            name = f"iteration{i}_layer{level}_encoder"
            if decoded:
                x = self.get_submodule(f"{name}_conv1")(torch.cat([x, decoded[-1 - level]], 1))
            x = self.get_submodule(f"{name}_conv2")(x)
            encoded.append(x)
            x = self.get_submodule(f"{name}_down")(x)
        return x, encoded

    def _decode(self, i: int, x: torch.Tensor, encoded: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        decoded = []
        for level in range(self.depth - 1):
            name = f"iteration{i}_layer{level}_decoder"
            x = torch.cat([self.get_submodule(f"{name}_up")(x), encoded[-1 - level]], 1)
            x = self.get_submodule(f"{name}_convs")(x)
            decoded.append(x)
        return x, decoded
