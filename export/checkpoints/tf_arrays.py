"""TensorFlow 1 checkpoints, as an .npz of their variables, into a module.

TensorFlow is not needed here. Where it is installed, one line makes the file:
`r = tf.train.load_checkpoint(PREFIX); np.savez(OUT, **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})`.
Kernels are (x, y, z, in, out), transposed ones (x, y, z, out, in); optimiser slots (Adam, Momentum) are left alone.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

SLOTS = ("Adam", "Adam_1", "Momentum", "RMSProp", "RMSProp_1", "ExponentialMovingAverage")
COUNTERS = ("global_step", "beta1_power", "beta2_power")
KERNEL_AXES = (4, 3, 0, 1, 2)


def read(path: Path) -> dict[str, np.ndarray]:
    """The variables without optimiser slots and counters."""
    with np.load(path, allow_pickle=False) as file:
        return {
            name: file[name]
            for name in file.files
            if name.split("/")[-1] not in SLOTS and name.split("/")[-1] not in COUNTERS
        }


def load(path: Path, net: nn.Module, names: dict[str, str]) -> None:
    """Fill `net`; `names` maps each state-dict name to the variable's name. Nothing may be missing or left over."""
    arrays, state = read(path), net.state_dict()
    missing, unknown = sorted(set(names.values()) - set(arrays)), sorted(set(arrays) - set(names.values()))
    if missing or unknown:
        raise ValueError(f"{path}: not this network's variables; missing {missing[:4]}, unknown {unknown[:4]}")
    for ours, theirs in names.items():
        array = arrays[theirs]
        array = array.transpose(KERNEL_AXES) if array.ndim == 5 else array
        if array.shape != tuple(state[ours].shape):
            raise ValueError(f"{path}: {theirs} has shape {array.shape}, the network {tuple(state[ours].shape)}")
        state[ours] = torch.from_numpy(np.ascontiguousarray(array))
    net.load_state_dict(state)


def qsmnet_names(net: nn.Module) -> dict[str, str]:
    """State-dict names of QSMnet -> variables of its published checkpoints."""
    leaves = {
        "conv.weight": "conv_weights",
        "conv.bias": "biases",
        "bn.weight": "bn/gamma",
        "bn.bias": "bn/beta",
        "bn.running_mean": "bn/mean_sh",
        "bn.running_var": "bn/var_sh",
        "bias": "biases",
    }
    names = {}
    for name in net.state_dict():
        if name.endswith("num_batches_tracked"):
            continue
        layer, _, leaf = name.partition(".")
        if leaf == "weight":
            theirs = "deconv_weights" if layer.startswith("deconv") else "weights"
        else:
            theirs = leaves[leaf]
        names[name] = f"qsmnet/{layer}/{theirs}"
    return names
