"""The installation's salt, by which names and UIDs become hashes that only this installation can make again."""

import os
import secrets
from functools import cache
from pathlib import Path

from platformdirs import user_data_path

SALT_BYTES = 32
OWNER_ONLY = 0o600


def salt_path() -> Path:
    """File of the salt; QSM_DATA_DIR moves it."""
    moved = os.environ.get("QSM_DATA_DIR")
    return (Path(moved) if moved else user_data_path("qsm_runtime")) / "log-salt"


@cache
def salt() -> bytes:
    """The salt, made at first use; where it cannot be kept, one that holds for this process alone."""
    path = salt_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _read(path) or _make(path)
    except OSError:
        return secrets.token_bytes(SALT_BYTES)


def _read(path: Path) -> bytes:
    """The salt in the file, empty where there is none or it is cut short; others may no longer read it."""
    try:
        with open(path, "rb") as stream:
            if os.name == "posix" and os.fstat(stream.fileno()).st_mode & 0o077:
                os.chmod(path, OWNER_ONLY)
            found = stream.read(SALT_BYTES + 1)
    except FileNotFoundError:
        return b""
    return found if len(found) == SALT_BYTES else b""


def _make(path: Path) -> bytes:
    """A new salt, written whole under another name first; the first of several processes wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    made = secrets.token_bytes(SALT_BYTES)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "wb") as stream:
            stream.write(made)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            found = _read(path)
            if found:
                return found
            os.replace(temporary, path)  # what is there is no salt
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return made
