"""How long ended studies are kept: by age and by size, the oldest go first.

A folder goes in one rename and is emptied after it: however the process ends, there is no half of a study.
"""

import os
import shutil
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from qsm_runtime.serve.spool_files import size_of

DAY_S, GIB = 86400.0, 2**30
GONE = ".gone"  # ending of what is being emptied
SWEEP_S = 3600.0  # between two looks, where nothing has ended meanwhile


@dataclass(frozen=True)
class Keep:
    """Since they ended, and of all of them together; infinite: nothing is removed."""

    days: float = 14.0
    gib: float = 20.0


class Kept:
    """Ended studies: the folders in `parents`, only those that hold a file `mark` if it is given.

    A folder has ended when its entries last changed. Its size is measured once.
    """

    def __init__(self, *parents: Path, mark: str = "") -> None:
        self._parents, self._mark = parents, mark
        self._sizes: dict[tuple[Path, int], int] = {}

    def beyond(self, keep: Keep, spared: Container[str] = ()) -> list[Path]:
        """What is to be removed now, the oldest first. spared: names of folders that stay."""
        try:
            ended = sorted(self._ended())
            self._sizes = {(path, at): self._sizes.get((path, at)) or size_of(path) for at, path in ended}
        except OSError:  # someone else removes something at this moment: the next look will do
            return []
        held, before_ns = sum(self._sizes.values()), (time.time() - DAY_S * keep.days) * 1e9
        found = []
        for at, path in ended:
            if at >= before_ns and held <= keep.gib * GIB:
                break
            if path.name not in spared:
                held -= self._sizes[path, at]
                found.append(path)
        return found

    def _ended(self) -> Iterator[tuple[int, Path]]:
        for parent in self._parents:
            with os.scandir(parent) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    path = parent / entry.name
                    if entry.name.startswith(".") and entry.name.endswith(GONE):
                        shutil.rmtree(path, ignore_errors=True)
                    elif not self._mark or (path / self._mark).is_file():
                        yield entry.stat(follow_symlinks=False).st_mtime_ns, path


def remove(folder: Path) -> None:
    """Remove an ended study. Raises OSError where it cannot be moved; then it is whole."""
    gone = folder.with_name(f".{folder.name}{GONE}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
