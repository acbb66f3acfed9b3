"""Files below a folder as they stand at one moment, found without opening any of them."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_FILES = 100_000  # of one study: more is no export of a console
KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Print(NamedTuple):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Listing:
    """files: path from the folder -> print. foreign: what must not be opened, and why, by path from the folder."""

    files: dict[str, Print]
    foreign: dict[str, str]


def listing(root: Path) -> Listing:
    """Every file in `root` and below; links are not followed. A single file is listed under its own name."""
    files: dict[str, Print] = {}
    foreign: dict[str, str] = {}
    below = [""]
    while below:
        folder = below.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    _take(entry, os.path.join(folder, entry.name), files, foreign, below)
                    if len(files) > MAX_FILES:
                        foreign[folder or "."] = f"more than {MAX_FILES} files"
                        return Listing(files, foreign)
        except (FileNotFoundError, NotADirectoryError):  # gone since it was listed
            continue
        except OSError as error:
            foreign[folder or "."] = f"a folder that cannot be listed ({error.strerror})"
    return Listing(files, foreign)


def _take(entry: os.DirEntry[str], path: str, files: dict[str, Print], foreign: dict[str, str], below: list) -> None:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        foreign[path] = f"a file that cannot be looked at ({error.strerror})"
        return
    if stat.S_ISDIR(found.st_mode):
        below.append(path)
    elif stat.S_ISREG(found.st_mode):
        files[path] = print_of(found)
    else:
        foreign[path] = foreign_kind(found.st_mode)


def print_of(found: os.stat_result) -> Print:
    return Print(found.st_size, found.st_mtime_ns, found.st_ino)


def foreign_kind(mode: int) -> str:
    """What an entry is that is neither file nor folder."""
    return next((name for test, name in KINDS if test(mode)), "no plain file")
