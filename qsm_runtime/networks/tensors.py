"""The tensors of a graph against its card and against what is fed: names, types, number and sizes of axes."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from qsm_runtime.errors import ModelError
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.card_parts import Port
from qsm_runtime.networks.openvino_direct import Node
from qsm_runtime.networks.registry import Model

AnyNode: TypeAlias = ort.NodeArg | Node
DTYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}


def check_ports(model: Model, inputs: Sequence[AnyNode], outputs: Sequence[AnyNode]) -> None:
    """The card's tensors against the graph's: names, types, number and sizes of axes."""
    card = model.card
    for kind, ports, nodes in (
        ("input", card.inputs, inputs),
        ("output", card.outputs, outputs),
    ):
        there = {node.name: node for node in nodes}
        for i, port in enumerate(ports):
            if port.tensor not in there:
                raise ModelError(
                    f"card {card.name}: {kind}s[{i}].tensor = {port.tensor!r}, but {model.onnx_path.name} has no such "
                    f"{kind}: its {kind}s are {named(there)}"
                )
            _check_port(f"card {card.name}: {kind}s[{i}]", port, there[port.tensor], card)
        for name in there:
            if kind == "input" and name not in [port.tensor for port in ports]:
                raise ModelError(
                    f"{model.onnx_path.name} has an input {name!r} that its card {card.name} does not describe; the "
                    f"card's inputs are {named(port.tensor for port in ports)}"
                )


def _check_port(where: str, port: Port, node: AnyNode, card: Card) -> None:
    if node.type != DTYPES[port.dtype]:
        raise ModelError(f"{where}.dtype = {port.dtype!r}, but the graph's tensor {node.name!r} is {node.type}")
    if not node.shape and port.axes:  # the graph does not say
        return
    if len(node.shape) != len(port.axes):
        raise ModelError(
            f"{where}.axes = {port.axes!r} has {len(port.axes)} axes, but the graph's tensor {node.name!r} has "
            f"{len(node.shape)}: {node.shape}"
        )
    for axis, size in zip(port.axes, node.shape, strict=True):
        if not isinstance(size, int):
            continue
        if axis in "xyz" and port.meaning not in ("b0_dir", "voxel_mm"):
            fixed = card.size.fixed
            if fixed is None or fixed["xyz".index(axis)] != size:
                raise ModelError(
                    f"{where}: the graph takes {size} voxels along {axis} and no other number, but the card's "
                    f"size.fixed is {None if fixed is None else list(fixed)}"
                )
        elif axis == "c" and port.channels and size != len(port.channels):
            raise ModelError(f"{where}.channels names {len(port.channels)}, but the graph has {size}")


def check_array(model: str, node: AnyNode, array: np.ndarray) -> None:
    wanted = next(dtype for dtype, kind in DTYPES.items() if kind == node.type)
    if str(array.dtype) != wanted:
        raise ModelError(f"model {model}: input {node.name!r} must be {wanted}, not {array.dtype}")
    fits = len(node.shape) == array.ndim and all(
        not isinstance(size, int) or size == n for size, n in zip(node.shape, array.shape, strict=True)
    )
    if node.shape and not fits:
        raise ModelError(f"model {model}: input {node.name!r} must have shape {node.shape}, not {array.shape}")


def named(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
