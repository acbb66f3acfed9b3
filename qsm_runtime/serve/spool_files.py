"""Names and small steps of folders that one process owns."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two owners of one folder are not told apart
    fcntl = None  # type: ignore[assignment]

RECORD = "job.json"


def hold(lock: Path) -> int:
    """Own a folder by this file until the descriptor is closed. Raises BlockingIOError where another process does."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is None:
        return held
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise BlockingIOError(error.errno, error.strerror) from error
    return held


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


def write_whole(path: Path, part: Path, data: bytes, sync: bool) -> None:
    """A file by way of `part`, there whole or not at all. sync: on the disk when this returns. Raises OSError."""
    try:
        with open(part, "xb", buffering=0) as stream:
            stream.write(data)
            if stream.tell() != len(data):
                raise OSError(errno.ENOSPC, "short write")
            if sync:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


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
