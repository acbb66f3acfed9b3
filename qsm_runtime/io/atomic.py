"""Files written whole or not at all: each to a temporary beside its place, all synced, then all renamed."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from qsm_runtime.errors import OutputError

REMEDIES = {
    errno.ENOSPC: "the disk is full: free space or choose another folder",
    errno.EDQUOT: "the quota is used up: free space or choose another folder",
    errno.EFBIG: "the file would exceed the allowed size: choose another folder",
    errno.EACCES: "no permission: choose another folder",
    errno.EPERM: "no permission: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EEXIST: "a part of the path is a file: choose another folder",
}


def check_writable(paths: Iterable[Path], inputs: Iterable[Path], overwrite: bool) -> None:
    """Make the folders of `paths` and raise OutputError where a file could not or must not be written."""
    read = {Path(p).resolve() for p in inputs}
    for path in paths:
        if path.resolve() in read:
            raise OutputError(f"{path} is an input and is never overwritten; choose another output folder")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; choose another output folder")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; choose another output folder or allow it with --overwrite")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(said(path.parent, error)) from error
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: cannot be written; {REMEDIES[errno.EACCES]}")


def write_files(files: Mapping[Path, Iterable[bytes]], *, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Write every file (path -> its parts), or none: on any failure or interrupt the temporaries are removed.

    Raises OutputError naming the file and the remedy.
    """
    check_writable(files, inputs, overwrite)
    temporaries: dict[Path, Path] = {}
    try:
        for path, parts in files.items():
            temporaries[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            _write(temporaries[path], path, parts)
        for path in files:
            try:
                os.replace(temporaries[path], path)
            except OSError as error:
                raise OutputError(said(path, error)) from error
            del temporaries[path]
    finally:
        for left in temporaries.values():
            left.unlink(missing_ok=True)


def _write(temporary: Path, path: Path, parts: Iterable[bytes]) -> None:
    try:
        with open(temporary, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(said(path, error)) from error


def said(path: Path, error: OSError) -> str:
    """What is said of a path that could not be written, with the remedy."""
    return f"{path}: cannot be written; {REMEDIES.get(error.errno or 0, error.strerror or str(error))}"
