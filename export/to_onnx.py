"""A torch module to ONNX at dynamic sizes, its weights without subnormals, compared with torch at two unequal sizes.

Exporters bake sizes in without a warning (a slice at h - 1 becomes a constant) and are then right at the traced size
alone: so the sizes of the comparison differ from the traced one on every axis, and from each other.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from qsm_runtime.networks.card import Card
from qsm_runtime.networks.verify import test_inputs

OPSET = 20
TOLERANCE = 1e-4  # largest error over the largest value; float32 sums in another order give some 1e-6
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
LARGEST_AXIS = 2048
Sizes = tuple[int, int, int]


def sizes(multiple: int) -> tuple[Sizes, Sizes, Sizes]:
    """To trace, and two to compare: no axis of one has the length it has in another."""
    a, b, c = (24, 32, 40) if multiple <= 8 else (2 * multiple, 3 * multiple, 4 * multiple)
    return (a, c, b), (b, a, c), (c, b, a)


def random_weights(net: nn.Module, seed: int) -> None:
    """Weights that keep a signal's size, and batch statistics unlike the neutral ones, so that a swap would show."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                transposed = isinstance(m, nn.ConvTranspose2d | nn.ConvTranspose3d)
                fan_in = m.in_channels if transposed else m.weight[0].numel()
                m.weight.normal_(0, (2 / fan_in) ** 0.5, generator=rng)
                if m.bias is not None:
                    m.bias.normal_(0, 0.1, generator=rng)
            elif isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d):
                m.weight.uniform_(0.7, 1.3, generator=rng)
                m.bias.normal_(0, 0.1, generator=rng)
                m.running_mean.normal_(0, 0.1, generator=rng)
                m.running_var.uniform_(0.7, 1.3, generator=rng)


def export(net: nn.Module, path: Path, card: Card, traced: Sizes) -> None:
    """Writes `path` by the exporter for modules, by the tracing one for TorchScript, which takes nothing else."""
    net.eval()
    example = tuple(torch.from_numpy(x) for x in test_inputs(card, traced, 0).values())
    names = {"input_names": [p.tensor for p in card.inputs], "output_names": [p.tensor for p in card.outputs]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if isinstance(net, torch.jit.ScriptModule):
            axes = {p.tensor: _spatial(p.axes) for p in (*card.inputs, *card.outputs)}
            torch.onnx.export(net, example, str(path), dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names)
        else:
            shapes = _dynamic(card)
            torch.onnx.export(
                net, example, str(path), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes,
                external_data=False, verbose=False, **names,
            )  # fmt: skip
    forget_places(path)
    flush(path)


def forget_places(path: Path) -> None:
    """Takes out what the exporter noted of source files and stack traces: paths of the machine it ran on."""
    model = onnx.load(path)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(model, path)


def _spatial(axes: str) -> dict[int, str]:
    return {i: letter for i, letter in enumerate(axes) if letter in "xyz"}


def _dynamic(card: Card) -> tuple[dict[int, object], ...]:
    m = card.size.multiple
    dims = {a: torch.export.Dim(f"{a}{m}", min=2, max=LARGEST_AXIS // m) for a in "xyz"}
    steps = {a: m * d if m > 1 else d for a, d in dims.items()}
    return tuple({i: steps[letter] for i, letter in _spatial(p.axes).items()} for p in card.inputs)


def flush(path: Path) -> int:
    """Sets subnormal weights to zero in place (they slow a CPU down tenfold); how many there were."""
    model, count = onnx.load(path), 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            small = (np.abs(values) < SMALLEST_NORMAL) & (values != 0)
            if small.any():
                count += int(small.sum())
                tensor.CopyFrom(numpy_helper.from_array(np.where(small, np.float32(0), values), tensor.name))
    if count:
        onnx.save(model, path)
    return count


def reference(net: nn.Module, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What torch gives."""
    net.eval()
    with torch.no_grad():
        out = net(*(torch.from_numpy(v) for v in feed.values()))
    return [o.numpy() for o in (out if isinstance(out, tuple) else (out,))]


def compare(
    path: Path, feed: Mapping[str, np.ndarray], wanted: list[np.ndarray], tolerance: float = TOLERANCE
) -> float:
    """Largest error of ONNX over the largest wanted value. Raises ValueError above the tolerance."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, dict(feed))
    error = max(float(np.abs(f - w).max() / np.abs(w).max()) for f, w in zip(found, wanted, strict=True))
    if not error < tolerance:
        raise ValueError(f"{path}: ONNX differs from torch by {error:.1e} of the largest value, {wanted[0].shape}")
    return error
