"""Where models are: folders of NAME.json and its .onnx. The first folder that has a name wins: those given, then the
packaged models, then the user's own.

The SHA-256 of an .onnx is checked whenever it is read, and what was checked is what runs.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_data_path

from qsm_runtime.errors import ModelError, UsageError
from qsm_runtime.networks import card as cards
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.onnx_file import truncated
from qsm_runtime.stages import unknown

PACKAGED = "qsm_runtime.models"


@dataclass(frozen=True)
class Model:
    """A card and the .onnx that it is for."""

    card: Card
    onnx_path: Path

    def read(self) -> bytes:
        """The .onnx, checked against the card's sha256. Raises ModelError."""
        try:
            data = self.onnx_path.read_bytes()
        except FileNotFoundError:
            raise ModelError(
                f"{self.onnx_path} is missing: the card of {self.card.name} stands alone; put its file there"
            ) from None
        except OSError as error:
            raise ModelError(f"{self.onnx_path}: cannot read the network: {error.strerror}") from None
        found = hashlib.sha256(data).hexdigest()
        if found == self.card.file.sha256:
            return data
        if truncated(data):
            raise ModelError(
                f"{self.onnx_path} is truncated or no ONNX file ({len(data)} bytes, and they end early); get it again"
            )
        raise ModelError(
            f"{self.onnx_path} is not the network that its card describes: its sha256 is {found}, the card says "
            f"{self.card.file.sha256}; get the file again, or write a card for this one (`qsm models card`)"
        )

    def beside(self, name: str) -> Path:
        """A file beside the card."""
        return self.onnx_path.parent / name

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files, the card last."""
        tests = dict.fromkeys(test.file for test in self.card.self_test)
        return (self.onnx_path, *(self.beside(t) for t in tests), self.beside(f"{self.card.name}.json"))


@dataclass(frozen=True)
class Found:
    """A card in a folder: its model, or what is wrong with it. hidden: an earlier folder has the name."""

    name: str
    path: Path
    model: Model | None
    problem: str
    hidden: bool


def user_folder() -> Path:
    """The user's own models; QSM_MODELS_DIR moves it."""
    moved = os.environ.get("QSM_MODELS_DIR")
    return Path(moved) if moved else user_data_path("qsm_runtime") / "models"


def packaged_folder() -> Path:
    """In a wheel a package; an editable installation has it beside the code, where the source tree keeps it."""
    if find_spec(PACKAGED) is not None:
        return Path(str(files(PACKAGED)))
    return Path(str(files("qsm_runtime"))).parent / "models"


def folders(extra: Iterable[Path] = ()) -> list[Path]:
    """The search path. Raises UsageError for one of `extra` that is no folder."""
    given = list(extra)
    for folder in given:
        if not folder.is_dir():
            raise UsageError(f"--models {folder}: no such folder")
    return [*given, packaged_folder(), user_folder()]


def load(path: Path) -> Model:
    """The model of a card or of an .onnx with its card beside it. Raises ModelError."""
    path = path.with_suffix(".json")
    card = cards.load(path)
    if card.name != path.stem:
        raise ModelError(f"{path}: name = {card.name!r}, but the file is called {path.name}; make the two the same")
    return Model(card, path.parent / card.file.name)


def find(name: str, extra: Iterable[Path] = ()) -> Model:
    """The model called `name`, or of the path of a card or .onnx. Raises UsageError that lists the names there are."""
    if name.endswith((".json", ".onnx")):
        return load(Path(name))
    searched = folders(extra)
    for folder in searched:
        if cards.valid_name(name) and (folder / f"{name}.json").is_file():
            return load(folder / f"{name}.json")
    names = dict.fromkeys(p.stem for p in _cards(searched))
    where = ", ".join(str(f) for f in searched)
    raise UsageError(f"{unknown('model', name, names)}; searched {where}; `qsm models add` puts one there")


def every(extra: Iterable[Path] = ()) -> list[Found]:
    """All cards on the search path, good or not."""
    found: list[Found] = []
    seen: set[str] = set()
    for path in _cards(folders(extra)):
        model, problem = None, ""
        try:
            model = load(path)
        except ModelError as error:
            problem = str(error)
        found.append(Found(path.stem, path, model, problem, path.stem in seen))
        seen.add(path.stem)
    return found


def add(model: Model, *, overwrite: bool = False) -> list[Path]:
    """Copy a model's files to the user's folder, all or none. Raises ModelError, or OutputError where it exists."""
    from qsm_runtime.io.atomic import write_files

    if (packaged_folder() / f"{model.card.name}.json").exists():
        raise ModelError(f"{model.card.name} is the name of a packaged model, which would hide this one; rename it")
    model.read()
    target = user_folder()
    copies: dict[Path, list[bytes]] = {}
    for path in model.paths:
        try:
            copies[target / path.name] = [path.read_bytes()]
        except OSError as error:
            raise ModelError(f"{path}: cannot read it: {error.strerror}") from None
    write_files(copies, inputs=model.paths, overwrite=overwrite)
    return list(copies)


def _cards(searched: Sequence[Path]) -> list[Path]:
    return [path for folder in searched if folder.is_dir() for path in sorted(folder.glob("*.json"))]
