"""A filled network into NAME.onnx, NAME.json and two self-test files, all checked."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from export import to_onnx
from qsm_runtime.networks import card as cards
from qsm_runtime.networks.verify import test_inputs

SEED = 1
DRAFT = "0" * 64


def write(folder: Path, net: nn.Module, draft: dict[str, Any], tolerance: float = to_onnx.TOLERANCE) -> cards.Card:
    """The finished card. Raises ModelError for a card that does not hold, ValueError where ONNX and torch differ."""
    name, fixed = draft["name"], draft["size"]["fixed"]
    traced, *shapes = to_onnx.sizes(draft["size"]["multiple"]) if fixed is None else [tuple(fixed)] * 3
    tests = [
        {
            "file": f"{name}_{i}_{'x'.join(map(str, s))}.npz",
            "shape": list(s),
            "tolerance": tolerance,
            "seed": SEED + i,
        }
        for i, s in enumerate(shapes)
    ]
    file = draft["file"] | {"name": f"{name}.onnx", "sha256": DRAFT, "opset": to_onnx.OPSET}
    card = cards.parse(json.dumps(draft | {"file": file, "self_test": tests}), name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / card.file.name
    to_onnx.export(net, path, card, traced)
    for test in card.self_test:
        feed = test_inputs(card, test.shape, test.seed or 0)
        wanted = to_onnx.reference(net, feed)
        to_onnx.compare(path, feed, wanted, tolerance)
        outputs = {f"output.{p.tensor}": w for p, w in zip(card.outputs, wanted, strict=True)}
        np.savez_compressed(folder / test.file, **outputs)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = dataclasses.replace(card, file=dataclasses.replace(card.file, sha256=digest))
    (folder / f"{name}.json").write_text(cards.to_json(card), encoding="utf-8")
    return card
