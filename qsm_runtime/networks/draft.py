"""A first card for an .onnx: what the file itself says, and null wherever only its maker can know ("?" where null would
be an answer)."""

import hashlib
from dataclasses import MISSING, fields, is_dataclass
from io import BytesIO
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from qsm_runtime.errors import ModelError
from qsm_runtime.networks.card import SCHEMA, Card, valid_name
from qsm_runtime.networks.onnx_file import opset, truncated
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.networks.schema import UNKNOWN
from qsm_runtime.networks.session import describe, open_session
from qsm_runtime.networks.tensors import DTYPES
from qsm_runtime.networks.verify import test_inputs

TEST_SHAPES = ((32, 48, 64), (48, 64, 32))  # unequal on every axis, multiples of 16
AXES = {5: "ncxyz", 4: "nxyz", 3: "xyz", 0: ""}  # a guess from the number of axes


def draft(path: Path) -> dict[str, Any]:
    """The card of an .onnx as plain values. Raises ModelError for a file that is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the network: {error.strerror}") from None
    if truncated(data):
        raise ModelError(f"{path} is truncated or no ONNX file; get it again")
    inputs, outputs = describe(data, str(path))
    name = path.stem.lower().replace(" ", "-")
    made = _blank(Card)
    fixed = _fixed(inputs)
    made |= {
        "schema": SCHEMA,
        "name": name if valid_name(name) else None,
        "file": {
            "name": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "opset": opset(data),
            "source": None,
        },
        "inputs": [_port(node) for node in inputs],
        "outputs": [_port(node) for node in outputs],
        "self_test": [
            {"file": f"{name}-{i}.npz", "shape": list(fixed or shape), "tolerance": 1e-4, "seed": i}
            for i, shape in enumerate(TEST_SHAPES)
        ],
    }
    made["size"]["fixed"] = fixed
    made["normalisation"] |= {
        "inputs": {node.name: {"kind": None} for node in inputs},
        "outputs": {node.name: {"kind": None} for node in outputs},
    }
    return made


def self_tests(model: Model) -> dict[Path, list[bytes]]:
    """The files of a card's self-tests, with outputs as onnxruntime's own CPU provider computes them: they find a
    provider that computes otherwise, not an export that went wrong. Raises ModelError where inputs are stored."""
    made: dict[Path, list[bytes]] = {}
    with open_session(model, Runtime("ort-cpu")) as session:
        for test in model.card.self_test:
            if test.seed is None:
                raise ModelError(f"{test.file}: its inputs are stored, not made from a seed; it is left as it is")
            memory = BytesIO()
            outputs = session.run(test_inputs(model.card, test.shape, test.seed))
            np.savez_compressed(memory, **{f"output.{k}": v for k, v in outputs.items()})  # type: ignore[arg-type]
            made[model.beside(test.file)] = [memory.getvalue()]
    return made


def _blank(kind: type) -> dict[str, Any]:
    """Every field of a dataclass that must be stated, as null; those of the dataclasses in it likewise."""
    made: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        field = next(f for f in fields(kind) if f.name == name)
        if is_dataclass(hint):
            made[name] = _blank(hint)  # type: ignore[arg-type]
        elif field.default is MISSING and field.default_factory is MISSING:
            made[name] = UNKNOWN if NoneType in get_args(hint) else None
    return made


def _port(node: Any) -> dict[str, Any]:
    dtype = next((name for name, kind in DTYPES.items() if kind == node.type), None)
    axes = AXES.get(len(node.shape or []))
    return {"tensor": node.name, "meaning": None, "unit": None, "sign": None, "axes": axes, "dtype": dtype}


def _fixed(inputs: list[Any]) -> list[int] | None:
    """The size that the graph's first volume is made for, if it is for one only."""
    for node in inputs:
        if len(node.shape or []) == 5:
            sizes = node.shape[2:]
            return list(sizes) if all(isinstance(n, int) for n in sizes) else None
    return None
