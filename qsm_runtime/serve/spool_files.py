"""Names and small steps of a spool's folders."""

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

RECORD = "job.json"


def name_of(uid: str) -> str:
    """File name of the object with this UID."""
    return f"{label_of(uid)}.dcm"


def label_of(uid: str) -> str:
    """What stands for a UID in the spool: always the same, whatever becomes of the log's salt."""
    return sha256(uid.encode()).hexdigest()[:40]


def read_record(job: Path) -> dict[str, Any]:
    """A job's job.json; empty where there is none."""
    try:
        found: dict[str, Any] = json.loads((job / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlive a power failure, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_record(job: Path, record: Mapping[str, Any]) -> None:
    part = job / f"{RECORD}.part"
    with open(part, "w") as stream:
        json.dump(record, stream, indent=1, default=str)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, job / RECORD)


def merge(source: Path, target: Path) -> None:
    """Move what is in one folder to another, and remove it."""
    target.mkdir(mode=0o700, exist_ok=True)
    for path in source.iterdir():
        if path.suffix == ".part":
            path.unlink()
        else:
            os.replace(path, target / path.name)
    source.rmdir()


def folders(parent: Path) -> list[Path]:
    """Those that count: neither drafts nor what is being removed."""
    return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_in(folder))


def files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
