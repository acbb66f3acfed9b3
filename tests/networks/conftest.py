"""Small models with a card and self-tests that hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_model import convolutions, fields_of


@pytest.fixture
def make_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes NAME.onnx, NAME.json and its self-tests to a folder of their own; returns the card's path."""
    monkeypatch.setenv("QSM_MODELS_DIR", str(tmp_path / "user"))

    def make(name: str = "small", data: bytes | None = None, *, tests: bool = True, **changed: Any) -> Path:
        folder = tmp_path / "given"
        folder.mkdir(exist_ok=True)
        data = convolutions() if data is None else data
        (folder / f"{name}.onnx").write_bytes(data)
        path = folder / f"{name}.json"
        path.write_text(json.dumps(fields_of(name, data) | changed))
        if tests:
            from qsm_runtime.networks import draft, registry

            for file, parts in draft.self_tests(registry.load(path)).items():
                file.write_bytes(b"".join(parts))
        return path

    return make
