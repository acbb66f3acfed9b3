"""What lies in a watched folder: drops, each a folder or the loose files of one study, and whether it can be taken.

A drop is looked at by names, sizes and times alone until it stops changing; headers are read once a file, while the
rest is still arriving.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from qsm_runtime.errors import InputError
from qsm_runtime.io.bids import find_acquisitions, find_named
from qsm_runtime.io.dicom.find import none_found, scans_of
from qsm_runtime.io.found import Found
from qsm_runtime.io.image import SUFFIXES
from qsm_runtime.serve.log import hashed
from qsm_runtime.serve.watch_files import Print, foreign_kind, listing, print_of
from qsm_runtime.serve.watch_headers import Headers

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload", "~")  # names that programs write under first
OTHERS = "no DICOM study"
READ_S = 0.5  # of header reading in one look


@dataclass
class Drop:
    """One thing to be taken whole. Paths in `files` and `foreign` are relative to `root`.

    name: the folder's, or what the loose files are. foreign: entries that must not be opened, and why. changed: when
    it last did, on the monotonic clock. lacks: why it is not complete, empty if it is; None while it is not known.
    told: that it is waited for stands in the log.
    """

    name: str
    root: Path
    loose: bool
    files: dict[str, Print] = field(default_factory=dict, repr=False)
    foreign: dict[str, str] = field(default_factory=dict)
    changed: float = field(default_factory=time.monotonic)
    lacks: tuple[str, ...] | None = None
    told: bool = False
    scans: list[Found] = field(default_factory=list, repr=False)

    @property
    def quiet_s(self) -> float:
        return time.monotonic() - self.changed


class Drops:
    """The drops in a folder; `reserved`: names in it that are none. `waiting`: headers are still to be read."""

    def __init__(self, folder: Path, reserved: Iterable[str], headers: Headers) -> None:
        self.folder = folder
        self.current: dict[tuple[str, str], Drop] = {}
        self.waiting = False
        self.headers = headers
        self._reserved = {name.casefold() for name in reserved}

    def look(self) -> None:
        """See what is there now, and read headers for a moment. Raises OSError where the folder cannot be listed."""
        until = time.monotonic() + READ_S
        loose, folders, links = self._top()
        paths = {self.folder / name: mark for name, mark in loose.items()}
        self.waiting = not self.headers.read(paths, until)
        seen: dict[tuple[str, str], Drop] = {}
        for name in folders:
            found = listing(self.folder / name)
            if found.files or found.foreign:  # an empty folder is one that is being made
                self._keep(seen, ("folder", name), Drop(name, self.folder / name, False, found.files, found.foreign))
        for study, files in self._studies(loose).items():
            self._keep(seen, ("loose", study), Drop(f"loose files of {study}", self.folder, True, files))
        for name, why in links.items():
            self._keep(seen, ("foreign", name), Drop(name, self.folder, True, {}, {name: why}))
        self.current = seen
        for drop in seen.values():
            if not drop.loose:
                own = {drop.root / name: mark for name, mark in drop.files.items()}
                self.waiting |= not self.headers.read(own, until)
                paths |= own
        self.headers.keep(set(paths))

    def assess(self, drop: Drop) -> tuple[str, ...]:
        """Find the scans in a drop whose headers are read, and what it lacks to be taken; kept until it changes."""
        if drop.lacks is None:
            drop.scans, drop.lacks = self._assessed(drop, drop.root)
        return drop.lacks

    def read(self, drop: Drop) -> bool:
        """Whether all its headers are read."""
        return all(self.headers.of(drop.root / name, mark) is not None for name, mark in drop.files.items())

    def moved(self, drop: Drop, root: Path) -> list[Found]:
        """The scans of an assessed drop, now that its files lie in `root`."""
        return self._assessed(drop, root)[0]

    def _assessed(self, drop: Drop, now: Path) -> tuple[list[Found], tuple[str, ...]]:
        found = self.headers.safely(partial(self._scans, drop, now))
        if isinstance(found, str):
            return [], (found,)
        scans, said = found
        lacks = [said] if said else []
        lacks += [f"{scan.name}: {lack}" for scan in scans for lack in scan.missing]
        growing = sorted(name for name in drop.files if name.lower().endswith(UNFINISHED))
        lacks += [f"{name}: by its name, it is still being written" for name in growing[:1]]
        return scans, tuple(lacks)

    def _scans(self, drop: Drop, now: Path) -> tuple[list[Found], str]:
        """Scans in it, files in `now`; and why there is none."""
        if any(name.lower().endswith(SUFFIXES) for name in drop.files):
            named = _loose_named(drop, now) if drop.loose else find_named(now)
            if named:
                return named, ""
        planes = self.headers.planes(drop.files, drop.root, now)
        scans = scans_of(planes)[0] if planes.frames else []
        if scans:
            return list(scans), ""
        archive = next((name for name in drop.files if name.lower().endswith(ARCHIVES)), "")
        if archive and not planes.frames:
            return [], f"{archive} is an archive: unpack it into a folder"
        if planes.frames or planes.aside:
            return [], none_found(planes)
        return [], "no DICOM images and no NIfTI images with phase; export magnitude and phase"

    def _keep(self, seen: dict[tuple[str, str], Drop], key: tuple[str, str], drop: Drop) -> None:
        """Add a drop, or the one that is known, where nothing in it changed."""
        known = self.current.get(key)
        same = known is not None and known.files == drop.files and known.foreign == drop.foreign
        seen[key] = known if same and known is not None else drop

    def _studies(self, loose: dict[str, Print]) -> dict[str, dict[str, Print]]:
        """Loose files by study, those whose headers were read."""
        found: dict[str, dict[str, Print]] = {}
        for name, mark in loose.items():
            read = self.headers.of(self.folder / name, mark)
            if read is not None:
                study = f"study {hashed(read[0].instance.study_uid)}" if isinstance(read, list) else OTHERS
                found.setdefault(study, {})[name] = mark
        return found

    def _top(self) -> tuple[dict[str, Print], list[str], dict[str, str]]:
        """Loose files, folders, and what is neither, directly in the watched folder."""
        loose: dict[str, Print] = {}
        folders: list[str] = []
        foreign: dict[str, str] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.casefold() in self._reserved:
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif not entry.is_file(follow_symlinks=False):
                        foreign[entry.name] = foreign_kind(found.st_mode)
                    elif not entry.name.lower().endswith(UNFINISHED):
                        loose[entry.name] = print_of(found)
                except FileNotFoundError:
                    continue
        return loose, sorted(folders), foreign


def find_in(folder: Path, threads: int | None = None) -> tuple[list[Found], str]:
    """Scans in a folder, and why there is none."""
    try:
        return list(find_acquisitions(folder)), ""
    except InputError as error:
        return [], str(error)


def _loose_named(drop: Drop, now: Path) -> list[Found]:
    """NIfTI scans among loose files: found by name in a folder that holds nothing else."""
    with tempfile.TemporaryDirectory(prefix="qsm-") as view:
        for name in drop.files:
            os.symlink(now.absolute() / name, os.path.join(view, name))
        found = find_named(Path(view))
    places = {
        id(scan): {part: tuple(now / path.name for path in paths) for part, paths in scan.files.items()}
        for scan in found
    }
    return [replace(scan, files=places[id(scan)]) for scan in found]
