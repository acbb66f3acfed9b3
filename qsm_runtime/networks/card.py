"""The card of a network: what an .onnx file takes, gives and was trained for, so that it cannot be fed wrongly.

A card is a JSON file beside the .onnx. Every value that changes a number must be stated; where null is allowed it
means "any" or "not known". Axes are named by letters: n batch, c channels, x y z the array axes of the runtime.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsm_runtime.errors import ModelError
from qsm_runtime.networks import schema
from qsm_runtime.networks.card_parts import (
    Dipole,
    Domain,
    Echoes,
    File,
    Geometry,
    Licence,
    Mask,
    Needs,
    Normalisations,
    Patching,
    Physics,
    Port,
    SelfTest,
    Size,
)
from qsm_runtime.networks.card_words import Task

SCHEMA = "qsm-card/1"


@dataclass(frozen=True)
class Card:
    """See the module. Checked when made: raises ModelError naming the field."""

    schema: str
    name: str
    version: str
    task: Task
    title: str
    citation: str
    licence: Licence
    file: File
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    normalisation: Normalisations
    geometry: Geometry
    dipole: Dipole | None
    size: Size
    patching: Patching
    mask: Mask
    echoes: Echoes
    domain: Domain
    runtime: Needs
    physics: Physics | None = None
    self_test: tuple[SelfTest, ...] = field(default=())

    def __post_init__(self) -> None:
        from qsm_runtime.networks.card_rules import check

        check(self)

    @property
    def takes(self) -> frozenset[str]:
        """The meanings of all that its inputs hold."""
        return frozenset(part.meaning for port in self.inputs for part in port.parts)

    @property
    def gives(self) -> frozenset[str]:
        return frozenset(part.meaning for port in self.outputs for part in port.parts)

    @property
    def scheme(self) -> str:
        """Of the host's steps between its passes; "none" where it runs alone."""
        return "none" if self.physics is None else self.physics.scheme


def parse(text: str, source: str) -> Card:
    """A card from JSON text; `source` is named in every message. Raises ModelError."""
    try:
        found = json.loads(text, parse_constant=_refuse)
        if isinstance(found, dict) and found.get("schema") != SCHEMA:
            raise ModelError(f"schema = {found.get('schema')!r}, but this version reads {SCHEMA!r}")
        return schema.read(Card, found)
    except json.JSONDecodeError as error:
        raise ModelError(f"{source}: not valid JSON: {error}") from None
    except ModelError as error:
        problems = str(error).splitlines()
        more = "".join(f"\n  {p}" for p in problems)
        raise ModelError(f"{source}: {problems[0]}" if len(problems) == 1 else f"{source}:{more}") from None


def load(path: Path) -> Card:
    """The card in a file. Raises ModelError."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot read the card: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not a card: not text in UTF-8") from None


def to_dict(card: Card) -> dict[str, Any]:
    """Plain values, as they stand in the JSON."""
    found: dict[str, Any] = schema.write(card)
    return found


def to_json(card: Card) -> str:
    return json.dumps(to_dict(card), indent=1, ensure_ascii=False) + "\n"


def valid_name(name: str) -> bool:
    """Whether it can be a card's name: it becomes a file's name too."""
    return re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) is not None


def _refuse(text: str) -> Any:
    raise ModelError(f"{text} is no number that JSON knows")
