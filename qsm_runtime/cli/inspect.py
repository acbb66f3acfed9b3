"""`qsm inspect`: what a folder holds, what `qsm run` would use of it, and what is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json, print_table
from qsm_runtime.errors import InputError

if TYPE_CHECKING:
    from qsm_runtime.io import Found
    from qsm_runtime.io.dicom import Contents

NOTHING_COMPLETE = InputError.exit_code


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="DICOM files, a BIDS dataset, or dcm2niix output.")],
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> int:
    """What is there, what would be used and why, and what is missing. Exit code 3 where no scan is complete."""
    from qsm_runtime.io import find_acquisitions
    from qsm_runtime.io.bids import find_named

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: Sequence[Found] = find_named(folder)
    document: dict[str, Any]
    if found:
        document = {"format": "nifti", "scans": [_named(scan) for scan in found]}
    else:
        from qsm_runtime.io.dicom import holds_dicom, inspect_folder

        if not holds_dicom(folder):
            find_acquisitions(folder)  # raises, and says what is missing
        contents = inspect_folder(folder, threads)
        found = contents.scans
        document = {"format": "dicom", **contents.document()}
        if not as_json:
            _show_series(contents)
    complete = [scan for scan in found if not scan.missing]
    code = 0 if complete else NOTHING_COMPLETE
    if as_json:
        print_json({**document, "exit_code": code})
        return code
    for scan in found:
        reason = getattr(scan, "reason", "")
        print(f"{scan.name}: {'complete' if not scan.missing else 'incomplete'}{f' ({reason})' if reason else ''}")
        for lack in scan.missing:
            print(f"  missing: {lack}")
    if not found:
        print("no scan with phase; export or transfer the phase images")
    return code


def _named(scan: "Found") -> dict[str, Any]:
    files = {part: [path.name for path in paths] for part, paths in scan.files.items()}
    return {"name": scan.name, "complete": not scan.missing, "missing": list(scan.missing), "files": files}


def _show_series(contents: "Contents") -> None:
    rows = [["series", "description", "part", "images", "matrix", "voxel mm", "echo times ms", "use"]]
    for one in contents.series:
        rows.append(
            [
                one.series.removeprefix("series "), one.description, one.part, str(one.images),
                "x".join(map(str, one.matrix or ())), "x".join(f"{v:.4g}" for v in one.voxel_mm or ()),
                ",".join(f"{t:g}" for t in one.echo_times_ms), one.use,
            ]
        )  # fmt: skip
    if contents.series:
        print_table(rows)
    for why, count in contents.aside.items():
        print(f"set aside: {count} x {why}")
    if contents.copies:
        print(f"{contents.copies} files are copies of others and are used once")
    print()
