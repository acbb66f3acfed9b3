"""Where a study of the watched folder is, on disk: a rename takes it, and a rename puts it where it ends.

  working/ID/   taken: study.json (what it is, how often it was tried) and data/, the originals as they came
  done/ID/      answered; study.json says with what
  failed/ID/    not answered, or not all of it; study.json and reason.txt say why

Originals are moved and never opened for writing. However the process ends, each file is in the watched folder or in
exactly one of these; what is in working at a start is taken up again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import REMEDIES, said, write_files
from qsm_runtime.serve.keep import Keep, Kept, remove
from qsm_runtime.serve.log import hashed
from qsm_runtime.serve.spool_files import hold, size_of
from qsm_runtime.serve.watch_drops import Drop
from qsm_runtime.serve.watch_folders import label, new_folder, remove_empty, try_to_move

WORKING, DONE, FAILED = FOLDERS = ("working", "done", "failed")
RECORD, REASON, DATA, LOCK = "study.json", "reason.txt", "data", ".lock"


@dataclass
class Claim:
    """A study that was taken. name: of its folders here and in the output. drop: what it was called.

    data: the folder to read. tries: how often work on it began, this time included.
    """

    name: str
    folder: Path
    drop: str
    loose: bool
    tries: int = 0
    taken_utc: str = ""
    files: Mapping[str, Sequence[int]] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / DATA if self.loose else self.folder / DATA / self.drop

    def record(self, state: str) -> dict[str, Any]:
        return {
            "name": self.name, "state": state, "drop": self.drop, "loose": self.loose, "taken_utc": self.taken_utc,
            "tries": self.tries,
        }  # fmt: skip


class Claims:
    """The three folders in the watched one. Raises OutputError where they cannot be made, moved into, or are in use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = -1
        self._kept = Kept(root / DONE, root / FAILED, mark=RECORD)
        try:
            for name in FOLDERS:
                (root / name).mkdir(exist_ok=True)
                if (root / name).is_symlink() or os.stat(root / name).st_dev != os.stat(root).st_dev:
                    raise OutputError(
                        f"{root / name} lies on another file system, so nothing can be moved there at once"
                    )
            self._lock = hold(root / WORKING / LOCK)
            try_to_move(root, root / WORKING)
        except BlockingIOError as error:
            raise OutputError(f"{root} is watched by another process; give each its own folder") from error
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{root}: studies must be moved out of it; {REMEDIES.get(error.errno or 0, error)}"
            ) from error

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def take(self, drop: Drop) -> Claim:
        """Move a drop into working. Raises OutputError where it cannot be moved; then it stays where it is."""
        now = datetime.now(UTC)
        folder = new_folder(self.root, FOLDERS, f"{now:%Y%m%dT%H%M%SZ}{label(drop.name)}")
        entries = {name: tuple(mark) for name, mark in drop.files.items()} if drop.loose else {}
        entries |= dict.fromkeys(drop.foreign, ()) if drop.loose else {}
        claim = Claim(folder.name, folder, drop.name, drop.loose, 0, now.isoformat(timespec="seconds"), entries)
        try:
            self._write(claim, claim.record(WORKING) | {"files": entries})
            (folder / DATA).mkdir()
            if drop.loose:
                self._move_loose(claim)
            else:
                os.rename(drop.root, claim.data)
        except OSError as error:
            self.put_back(claim)
            raise error if isinstance(error, OutputError) else OutputError(said(drop.root, error)) from error
        return claim

    def put_back(self, claim: Claim) -> bool:
        """Undo `take`. Returns whether it could be: nothing is put over what came meanwhile."""
        data = claim.folder / DATA
        moved = True
        for entry in sorted(data.iterdir()) if data.is_dir() else []:
            place = self.root / entry.name
            try:
                if os.path.lexists(place):
                    moved = False
                else:
                    os.rename(entry, place)
            except OSError:
                moved = False
        if moved:
            for rest in (claim.folder / RECORD, data, claim.folder):
                remove_empty(rest)
        return moved

    def unfinished(self) -> list[Path]:
        """Folders that an earlier process left in working, oldest first."""
        return sorted(path for path in (self.root / WORKING).iterdir() if path.is_dir())

    def resume(self, folder: Path) -> Claim | None:
        """An unfinished claim, its last files moved too; None where nothing was moved: it is forgotten."""
        claim = _recorded(folder)
        if claim.loose:
            (folder / DATA).mkdir(exist_ok=True)
            self._move_loose(claim)
        if (folder / DATA).is_dir() and any((folder / DATA).iterdir()):
            return claim
        for rest in (*folder.glob(".*.tmp"), folder / RECORD, folder / DATA, folder):
            remove_empty(rest)
        return None

    def begin(self, claim: Claim, step: int = 1) -> None:
        """Count a try on disk, before it; step -1 takes one back that ended in order. A full disk counts none."""
        claim.tries += step
        with suppress(OutputError):
            self._write(claim, claim.record(WORKING) | {"files": claim.files})

    def end(self, claim: Claim, where: str, document: Mapping[str, Any], reason: str) -> Path:
        """Move a claim to done or failed with its record and, in failed, its reason. Returns its folder there.

        A record that cannot be written (a full disk) is left out. Raises OutputError where the folder cannot be moved.
        """
        files = {claim.folder / RECORD: [json_of(claim.record(where) | dict(document))]}
        if reason:
            files[claim.folder / REASON] = [reason.encode("utf-8", "surrogateescape")]
        with suppress(OutputError):
            write_files(files, overwrite=True)
        place = self.root / where / claim.name
        try:
            os.rename(claim.folder, place)
        except OSError as error:
            raise OutputError(said(place, error)) from error
        return place

    def retire(self, keep: Keep) -> list[tuple[str, str, int]]:
        """Remove studies of done and failed that are kept no longer; of each its state, hash and bytes."""
        removed = []
        for folder in self._kept.beyond(keep):
            study, size = _study_in(folder), size_of(folder)
            try:
                remove(folder)
            except OSError:  # not ours any more: it is tried again
                continue
            removed.append((folder.parent.name, study, size))
        return removed

    def _write(self, claim: Claim, document: Mapping[str, Any]) -> None:
        write_files({claim.folder / RECORD: [json_of(document)]}, overwrite=True)

    def _move_loose(self, claim: Claim) -> None:
        """Move the listed files that are still in the watched folder and are the ones that were seen there."""
        for name, mark in claim.files.items():
            source = self.root / name
            try:
                found = os.lstat(source)
            except FileNotFoundError:
                continue
            if not mark or (found.st_size, found.st_mtime_ns, found.st_ino) == tuple(mark):
                os.rename(source, claim.folder / DATA / name)


def json_of(document: Mapping[str, Any]) -> bytes:
    """A record's text, in ASCII: names of files may hold bytes that no encoding has."""
    return (json.dumps(document, indent=2, default=str) + "\n").encode("ascii")


def _recorded(folder: Path) -> Claim:
    """A claim as its record has it; as well as can be where there is none."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {os.path.basename(name): tuple(mark) for name, mark in found.get("files", {}).items()}
        drop, loose = os.path.basename(found["drop"]), bool(found["loose"])
        return Claim(folder.name, folder, drop, loose, int(found["tries"]), str(found["taken_utc"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        inside = sorted(os.listdir(folder / DATA)) if (folder / DATA).is_dir() else []
        single = len(inside) == 1 and (folder / DATA / inside[0]).is_dir()
        return Claim(folder.name, folder, inside[0] if single else folder.name, not single)


def _study_in(folder: Path) -> str:
    """The hash by which an ended study stands in the log."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="ascii"))["study"])
    except (OSError, ValueError, KeyError, TypeError):
        return hashed(folder.name)
