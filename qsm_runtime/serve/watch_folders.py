"""Small steps with the folders of a watched folder: new ones, empty ones, and whether they can be moved at all."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import said

LABEL_LENGTH = 40


def label(name: str) -> str:
    """What of a drop's name can stand in a path: a patient's odd characters cannot."""
    kept = re.sub(r"[^A-Za-z0-9.-]+", "-", name.removeprefix("loose files of "))[:LABEL_LENGTH].strip("-.")
    return f"_{kept}" if kept else ""


def new_folder(root: Path, parents: Sequence[str], name: str) -> Path:
    """A folder of this name, or one like it, in the first of the parents in `root`, that none of them had."""
    for number in range(1, 10_000):
        path = root / parents[0] / (name if number == 1 else f"{name}_{number}")
        if any((root / parent / path.name).exists() for parent in parents):
            continue
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(said(path, error)) from error
        return path
    raise OutputError(f"{root / parents[0] / name}: no free name for it")


def try_to_move(root: Path, into: Path) -> None:
    """Raise OSError where a folder cannot be moved from one to the other."""
    probe = root / f".probe-{os.getpid()}"
    probe.mkdir()
    try:
        os.rename(probe, into / probe.name)
        os.rmdir(into / probe.name)
    except OSError:
        remove_empty(probe)
        raise


def remove_empty(path: Path) -> None:
    """Remove a file of ours or an empty folder, if it is there."""
    try:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    except OSError:
        return
