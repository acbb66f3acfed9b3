"""PyTorch state dicts into a module: bare, wrapped in a training checkpoint, or saved from DataParallel ('module.')."""

from pathlib import Path

import torch
from torch import nn

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "net", "model")


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, prefixes stripped. Loaded with weights_only: a pickle that would run code is refused."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    return {name.removeprefix("module."): value for name, value in state.items() if torch.is_tensor(value)}


def load_parts(path: Path, net: nn.Module) -> dict[str, float]:
    """As `load`; or from a folder, where each .pth holds one child of `net`, known by its names."""
    if not path.is_dir():
        return load(path, net)
    scalars: dict[str, float] = {}
    files = {file: set(read(file)) for file in sorted(path.glob("*.pth"))}
    for name, child in net.named_children():
        wanted = {n for n in child.state_dict() if not n.endswith("num_batches_tracked")}
        fitting = [file for file, names in files.items() if wanted <= names]
        if len(fitting) != 1:
            raise ValueError(f"{path}: {len(fitting)} of its .pth files hold the part {name}; leave exactly one there")
        scalars |= load(fitting[0], child)
    return scalars


def load(path: Path, net: nn.Module) -> dict[str, float]:
    """Fill `net`; returns the one-element tensors the module has no place for (steps, weights, exponents)."""
    state = read(path)
    wanted = set(net.state_dict())
    # saved before BatchNorm counted its batches
    wanted_counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    scalars = {name: float(v) for name, v in state.items() if name not in wanted and v.numel() == 1}
    unknown = sorted(set(state) - wanted - set(scalars))
    missing = sorted(wanted - set(state) - wanted_counters)
    if unknown or missing:
        raise ValueError(f"{path}: not this network's weights; missing {missing[:4]}, unknown {unknown[:4]}")
    net.load_state_dict({name: v for name, v in state.items() if name in wanted}, strict=False)
    return scalars
