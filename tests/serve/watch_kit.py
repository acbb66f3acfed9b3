"""For tests of the watched folder: made studies, and a watch with quick rules."""

import json
import os

import made_dicom as made
from patience import PATIENCE_S, until
from serve_kit import FakeCore, Told

from qsm_runtime.serve.watch import Rules, Watch

QUICK = {"settle_s": 0.2, "give_up_s": PATIENCE_S, "poll_s": 0.05, "threads": 1, "disk_s": 0.2}


def study(folder, *, number=7, echo_times_ms=(4.0, 9.0), prefix="", keep=None, **changes):
    """A made scan as classic DICOM files. keep: how many of them are written."""
    protocol = made.Protocol(shape=(12, 10, 6), echo_times_ms=echo_times_ms, number=number, **changes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder / ".aside" if folder.is_dir() else folder.with_name(f".{folder.name}"[:255])
    aside.mkdir()
    for index, dataset in enumerate(made.classic(protocol)[:keep]):
        dataset.save_as(aside / f"{prefix}{index:04d}.dcm", enforce_file_format=True)
    names = sorted(path.name for path in aside.iterdir())
    if aside.parent == folder:
        for name in names:
            os.rename(aside / name, folder / name)
        aside.rmdir()
    else:
        os.rename(aside, folder)  # at once, however slow this machine is
    return [folder / name for name in names]


class Watching:
    """A watch of `root`/in that writes to `root`/out; a context in which it runs.

    What lies in the folder before is there at once, however slow this machine is.
    """

    def __init__(self, root, core=None, form="nifti", **rules):
        self.inbox, self.out = root / "in", root / "out"
        self.inbox.mkdir(exist_ok=True)
        self.core, self.log = core or FakeCore(), Told()
        self.watch = Watch(self.inbox, self.out, self.core, self.log, Rules(**{**QUICK, "form": form, **rules}))

    def __enter__(self):
        self.watch.start()
        return self

    def __exit__(self, *error):
        self.watch.stop()

    @property
    def said(self):
        return self.log.text.getvalue()

    def events(self, name=None):
        return self.log.events(name)

    def ended(self, where, count=1):
        """Wait for so many studies in done or failed; their folders and records."""

        def there():
            found = claims(self.inbox, where)
            return found if len(found) >= count else None

        found = until(there, lambda: f"for {where}: {self.said}")
        return [(folder, json.loads((folder / "study.json").read_text())) for folder in found]


def claims(inbox, where):
    folder = inbox / where
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def contents(folder):
    """Bytes of every file below, by path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
