"""Machines made wrong on purpose."""

import shutil
from pathlib import Path

import pytest

from qsm_runtime.networks import devices, registry


@pytest.fixture
def file_as_folder(tmp_path: Path) -> Path:
    """A folder that nobody can make or write, root neither: a part of its path is a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of a packaged model."""
    packaged = registry.packaged_folder()
    cards = sorted(packaged.glob("*.json"))
    if not cards:
        pytest.skip("no packaged model")
    folder = tmp_path / "models"
    folder.mkdir()
    for path in packaged.glob(f"{cards[0].stem}*"):
        shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture
def bad_model(model_folder: Path) -> Path:
    """A folder with a model whose file is not the one of its card."""
    path = next(model_folder.glob("*.onnx"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a weight
    path.write_bytes(data)
    return model_folder


@pytest.fixture
def second_wheel(tmp_path: Path) -> Path:
    """A folder for sys.path that makes both wheels of onnxruntime installed, by their metadata."""
    there = devices.wheels()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        if name not in there:
            folder = tmp_path / "site" / f"{name.replace('-', '_')}-1.0.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return tmp_path / "site"
