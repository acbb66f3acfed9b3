"""Graphs of known arithmetic, and the fields of cards for them."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

PLAIN = {"mask_before": False, "mask_after": False, "residual": "none"}
ANYWHERE = {
    "b0_tesla": None, "chi_ppm": None, "field_ppm": None, "voxel_mm": None, "angle_deg": None, "snr": None,
    "anatomy": "any",
}  # fmt: skip
FREE = {"voxel_mm": None, "tolerance": 0.05, "resample": "none", "b0": "any"}


def port(tensor: str, meaning: str, unit: str = "ppm", **changed: Any) -> dict[str, Any]:
    return {
        "tensor": tensor,
        "meaning": meaning,
        "unit": unit,
        "sign": 1,
        "axes": "ncxyz",
        "dtype": "float32",
    } | changed


def stack(tensor: str, *meanings: str) -> dict[str, Any]:
    parts = [{"meaning": m, "unit": "ppm", "sign": 1} for m in meanings]
    return port(tensor, "stack", "1", channels=parts)


def conv(
    kernel: np.ndarray, bias: np.ndarray | None = None, *, pads: int = 1, names: tuple[str, str] = ("x", "y")
) -> bytes:
    """One convolution, kernel (out, in, a, b, c): input x, output y."""
    return network([(kernel, bias, False)], pads=pads, names=names)


def network(
    layers: list[tuple[np.ndarray, np.ndarray | None, bool]], *, pads: int = 1, names: tuple[str, str] = ("x", "y")
) -> bytes:
    """Convolutions in a row (kernel, bias, whether a ReLU follows)."""
    nodes, weights, last = [], [], names[0]
    for i, (kernel, bias, relu) in enumerate(layers):
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        inputs = [last, f"w{i}"]
        if bias is not None:
            weights.append(numpy_helper.from_array(bias.astype(np.float32), f"b{i}"))
            inputs.append(f"b{i}")
        final = i == len(layers) - 1
        out = names[1] if final else f"c{i}"
        width = pads if kernel.shape[2] == 3 else 0
        nodes.append(helper.make_node("Conv", inputs, [out], pads=[width] * 6))
        last = out
        if relu:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            last = f"r{i}"
    first, final_kernel = layers[0][0], layers[-1][0]
    ports = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, first.shape[1], "x", "y", "z"]),
        helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [1, final_kernel.shape[0], "u", "v", "w"]),
    ]
    graph = helper.make_graph(nodes, "made", ports[:1], ports[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return made.SerializeToString()


def scaling(factor: float) -> bytes:
    return conv(np.full((1, 1, 1, 1, 1), factor))


def smoothing() -> bytes:
    return conv(np.full((1, 1, 3, 3, 3), 1 / 27))


def card(takes: dict[str, Any] | None = None, gives: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """Fields for `make_model`: x, a local field, to y, a susceptibility, anywhere, without normalisation."""
    takes, gives = takes or port("x", "local_field"), gives or port("y", "chi")
    return {
        "inputs": [takes],
        "outputs": [gives],
        "normalisation": {"inputs": {"x": {"kind": "none"}}, "outputs": {"y": {"kind": "none"}}, **PLAIN},
        "geometry": FREE,
        "domain": ANYWHERE,
    } | changed
