"""`qsm send dicom`: the DICOM files of a folder to an application entity."""

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import OutputError, UsageError


def dicom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="DICOM files, in it and below.")],
    to: Annotated[str | None, typer.Option("--to", metavar="AE@HOST:PORT", help="Where to.")] = None,
    ae: Annotated[str, typer.Option("--ae", metavar="TITLE", help="Own application entity title.")] = "QSM",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Send every DICOM file of a folder by C-STORE, as it is.

    \b
    qsm send dicom study/ --to PACS@10.0.0.5:104
    """
    from qsm_runtime.serve.dicom_send import Destination, objects_in, send

    if to is None:
        raise UsageError("no destination: give --to AE@HOST:PORT")
    destination = Destination.parse(to)
    objects = objects_in(folder)
    said: Counter[int] = Counter()
    start = time.perf_counter()
    send(objects, destination, ae, lambda path, status: said.update([status]))
    seconds = time.perf_counter() - start
    refused = {f"0x{status:04X}": count for status, count in said.items() if status}
    if as_json:
        print_json({"to": to, "sent": said[0], "refused": refused, "seconds": round(seconds, 3)})
    elif not quiet:
        print(f"{said[0]} objects sent to {destination} in {seconds:.1f} s")
    if refused:
        kinds = ", ".join(f"{count} with {status}" for status, count in refused.items())
        raise OutputError(f"{destination} refused {sum(refused.values())} of {len(objects)} objects ({kinds})")
    return 0
