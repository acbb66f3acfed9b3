"""A small simulated scan on disk, a quick recipe, and `qsm` called in this process."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qsm_runtime.cli import main

RECIPE = """
description = "quick"
[mask]
method = "brain"
[offset]
method = "mcpc3ds"
[unwrap]
method = "romeo"
[field]
method = "weighted"
[background]
method = "sharp"
radius_mm = 6.0
[inversion]
method = "tkd"
[reference]
method = "whole_mask"
"""


@dataclass(frozen=True)
class Ran:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def qsm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.delenv("QSM_DEBUG", raising=False)

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BIDS dataset of one simulated head, sub-sim, with its truth."""
    folder = tmp_path_factory.mktemp("simulated") / "dataset"
    code = main(
        ["phantom", "-o", str(folder), "--matrix", "40,48,40", "--voxel-mm", "4,4,4", "--echo-times-ms", "4,9,14", "-q"]
    )
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def truth(dataset: Path) -> Path:
    return dataset / "derivatives" / "truth" / "sub-sim" / "anat"


@pytest.fixture(scope="session")
def reconstructed(dataset: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of maps of the dataset, with every extra map."""
    folder = tmp_path_factory.mktemp("reconstructed")
    assert main(["run", str(dataset), "-o", str(folder), "--recipe", str(recipe), "--save", "all", "-q"]) == 0
    return folder / "sub-sim" / "anat"


def files_below(folder: Path) -> list[str]:
    return sorted(os.path.relpath(p, folder) for p in folder.rglob("*") if p.is_file())
