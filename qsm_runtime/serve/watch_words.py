"""What the watched folder says: of what was made, why it was not, and in the log of whom without names."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from qsm_runtime.errors import InputError, OutputError, QsmError, UsageError
from qsm_runtime.io.atomic import said
from qsm_runtime.io.dicom.find import FoundDicom
from qsm_runtime.io.found import Found
from qsm_runtime.serve.log import hashed, without
from qsm_runtime.serve.watch_claims import DONE, FAILED


def document_of(
    study: str, scans: Sequence[Mapping[str, Any]], problems: Sequence[str], place: Path, folder: Path
) -> dict[str, Any]:
    """The record of an ended study. place: where its maps are, if there are any; folder: the watched one."""
    made = [one for one in scans if "error" not in one]
    done = bool(made) and len(made) == len(scans) and not problems
    return {
        "state": DONE if done else FAILED,
        "study": study,
        "out": str(place) if made else "",
        "scans": list(scans),
        "problems": list(problems),
        "reason": "" if done else _reason(scans, problems, place, folder),
    }


def _reason(scans: Sequence[Mapping[str, Any]], problems: Sequence[str], place: Path, folder: Path) -> str:
    lines = ["This study was not answered, or not all of it.", ""]
    lines += [f"- {problem}" for problem in problems]
    for one in scans:
        said = one["error"]["message"] if "error" in one else f"answered; maps in {place}"
        lines.append(f"- {one['scan']}: {said}")
    lines += ["", "The originals are in data/, as they came. To try again, move them back into", str(folder)]
    return "\n".join(lines) + "\n"


def study_of(scans: Sequence[Found], drop: str) -> str:
    """The hash by which a study is known to every front end: of its StudyInstanceUID, else of what was dropped."""
    first = next((scan for scan in scans if isinstance(scan, FoundDicom)), None)
    return hashed(drop if first is None else first.main.first.instance.study_uid)


def nameless(text: str, drop: str, files: Iterable[str] = ()) -> str:
    """A message for the log: without the name of the drop and of anything in it."""
    return without(text, [drop, *(part for path in files for part in PurePath(path).parts)])


def refusals(foreign: Mapping[str, str]) -> list[str]:
    """Why a drop that holds such entries is not opened."""
    return [f"{name!r} is {why}: put plain files and folders there" for name, why in sorted(foreign.items())[:10]]


def error_fields(error: BaseException) -> dict[str, Any]:
    """What a scan's error is called in a record."""
    if isinstance(error, QsmError):
        return {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    if isinstance(error, MemoryError):
        return {"kind": "MemoryError", "message": "not enough memory for this scan", "exit_code": 5}
    if isinstance(error, OSError):
        return {"kind": "OSError", "message": f"{error.strerror or error}", "exit_code": 5}
    return {"kind": "bug", "message": f"this is a bug: {type(error).__name__}: {error}", "exit_code": 1}


def check_places(folder: Path, out: Path) -> None:
    """Raise InputError, UsageError or OutputError where a folder cannot be watched or written to; makes `out`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise UsageError(f"--out {out} lies in the watched folder, so maps would be taken for studies; choose another")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(said(out, error)) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written; choose another folder or give this user permission")
