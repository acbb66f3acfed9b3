"""A small network made on the spot, and its card."""

import hashlib
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((16, 20, 12), (20, 12, 16))


def convolutions(channels: int = 4, layers: int = 2, seed: int = 0, sizes: tuple[Any, ...] = ("x", "y", "z")) -> bytes:
    """An .onnx: input `field`, output `chi`, 3x3x3 convolutions with ReLU between them."""
    rng = np.random.default_rng(seed)
    nodes, weights, last, before = [], [], "field", 1
    for i in range(layers):
        after = 1 if i == layers - 1 else channels
        kernel = rng.normal(size=(after, before, 3, 3, 3)) / np.sqrt(27 * before)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        out = "chi" if i == layers - 1 else f"c{i}"
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [out], pads=[1] * 6))
        if out != "chi":
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
        last, before = f"r{i}", after
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *sizes]) for name in ("field", "chi")]
    graph = helper.make_graph(nodes, "convolutions", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def fields_of(name: str, data: bytes) -> dict[str, Any]:
    """The card of `convolutions()` as plain values."""
    port = {"unit": "ppm", "sign": 1, "axes": "ncxyz", "dtype": "float32"}
    return {
        "schema": "qsm-card/1",
        "name": name,
        "version": "1.0",
        "task": "inversion",
        "title": "a small network",
        "citation": "made for tests",
        "licence": {"spdx": "MIT", "redistributable": True},
        "file": {"name": f"{name}.onnx", "sha256": hashlib.sha256(data).hexdigest(), "opset": 20, "source": "onnx"},
        "inputs": [{"tensor": "field", "meaning": "local_field", **port}],
        "outputs": [{"tensor": "chi", "meaning": "chi", **port}],
        "normalisation": {
            "inputs": {"field": {"kind": "affine", "mean": 0.0, "std": 0.05}},
            "outputs": {"chi": {"kind": "none"}},
            "mask_before": True,
            "mask_after": True,
            "residual": "none",
        },
        "geometry": {"voxel_mm": [1, 1, 1], "tolerance": 0.05, "resample": "fourier", "b0": "require_z"},
        "dipole": None,
        "size": {"multiple": 4, "pad_side": "end", "pad_mode": "constant", "min": 4, "max": None, "fixed": None},
        "patching": {"allowed": True, "patch": None, "crop": [0, 0, 0], "overlap": [0, 0, 0], "blend": "crop"},
        "mask": {"needed": True, "erode_mm": 0, "apply": True, "reference": "none"},
        "echoes": {"combine": "single"},
        "domain": {
            "b0_tesla": [1.5, 7],
            "chi_ppm": [-0.5, 1],
            "field_ppm": [-0.5, 0.5],
            "voxel_mm": [0.6, 1.5],
            "angle_deg": [0, 10],
            "snr": None,
            "anatomy": "brain",
        },
        "runtime": {"bytes_per_voxel": 100, "providers": ["cpu"], "denormals_to_zero": False, "precision": "f32"},
        "physics": None,
        "self_test": [
            {"file": f"{name}-{i}.npz", "shape": list(shape), "tolerance": 1e-5, "seed": i}
            for i, shape in enumerate(SHAPES)
        ],
    }
