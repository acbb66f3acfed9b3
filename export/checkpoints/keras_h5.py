"""Keras .h5 weights (group attributes `layer_names`, `weight_names`) into a torch module, layer by layer.

Keras keeps convolution kernels as (x, y, z, in, out), transposed ones as (x, y, z, out, in), and names layers by a
counter that runs on through a session (conv3d_30...), so layers are matched by the order in which the file lists them
within one kind: the n-th convolution of the file is the n-th of the module, and every shape must agree.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
KERNEL = {nn.Conv3d: (4, 3, 0, 1, 2), nn.ConvTranspose3d: (4, 3, 0, 1, 2)}


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> {weight: array}, in the file's order; weights saved from a whole model or with save_weights alike."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        for group in _text(root.attrs["layer_names"]):
            for name in _text(root[group].attrs["weight_names"]):
                layer, weight = name.split("/")[-2:]
                layers.setdefault(layer, {})[weight.split(":")[0]] = root[group][name][()]
    return layers


def load(path: Path, net: nn.Module) -> dict[str, np.ndarray]:
    """Fill `net`; returns what is left, the scalars of custom layers, as {"layer/weight": array}."""
    layers = read(path)
    convolutions = [layer for layer in layers.values() if "kernel" in layer]
    norms = [layer for layer in layers.values() if "moving_mean" in layer]
    modules = [m for m in net.modules() if isinstance(m, CONVOLUTIONS)]
    batch_norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm3d)]
    _same_count(path, "convolutions", len(convolutions), len(modules))
    _same_count(path, "batch normalisations", len(norms), len(batch_norms))
    for layer, module in zip(convolutions, modules, strict=True):
        _put(path, module.weight, layer["kernel"].transpose(KERNEL[type(module)]))
        if (module.bias is None) != ("bias" not in layer):
            raise ValueError(f"{path}: a convolution's bias is on one side only")
        if module.bias is not None:
            _put(path, module.bias, layer["bias"])
    for layer, norm in zip(norms, batch_norms, strict=True):
        for theirs, ours in NORM.items():
            _put(path, getattr(norm, ours), layer[theirs])
    return {
        f"{name}/{weight}": array
        for name, layer in layers.items()
        if "kernel" not in layer and "moving_mean" not in layer
        for weight, array in layer.items()
    }


def _put(path: Path, parameter: torch.Tensor, array: np.ndarray) -> None:
    if tuple(parameter.shape) != array.shape:
        raise ValueError(f"{path}: a weight of shape {array.shape} where the network has {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _same_count(path: Path, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{path}: {found} {what}, the network has {wanted}")


def _text(names: np.ndarray) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
