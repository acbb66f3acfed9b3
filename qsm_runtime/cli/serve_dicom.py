"""`qsm serve dicom`: a DICOM node that scanners push to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import serve_options as common
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsm_runtime.serve.core import Core
    from qsm_runtime.serve.log import StudyLog
    from qsm_runtime.serve.service import FrontEnd

FSYNC = ("always", "soon", "never")


def dicom(
    spool: Annotated[
        Path | None, typer.Option("--spool", metavar="FOLDER", help="Where objects and results lie; one a server.")
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="0: any free one.")] = 11112,
    ae: Annotated[str, typer.Option("--ae", metavar="TITLE", help="Own application entity title.")] = "QSM",
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Listen there; any other than this machine needs --calling."),
    ] = "127.0.0.1",
    calling: Annotated[
        list[str] | None, typer.Option("--calling", metavar="TITLE", help="Who may send. Repeatable.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="ADDRESS", help="From which addresses. Repeatable.")
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="AE@HOST:PORT", help="Send the map there. Repeatable.")
    ] = None,
    settle_s: Annotated[
        float, typer.Option("--settle-s", metavar="S", help="Quiet time before the answer to a complete scan is sent.")
    ] = 2.0,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", metavar="S", help="Quiet time after which an incomplete scan has failed.")
    ] = 300.0,
    give_up_h: Annotated[
        float, typer.Option("--give-up-h", metavar="H", help="Age of an answer that a destination does not take.")
    ] = 168.0,
    max_object_mib: Annotated[int, typer.Option("--max-object-mib", metavar="MIB", help="Of one object.")] = 512,
    max_objects: Annotated[int, typer.Option("--max-objects", metavar="N", help="That wait at once.")] = 50_000,
    max_spool_mib: Annotated[
        int, typer.Option("--max-spool-mib", metavar="MIB", help="Of the spool without what is done.")
    ] = 65_536,
    max_associations: Annotated[int, typer.Option("--max-associations", metavar="N", help="At once.")] = 8,
    max_pdu: Annotated[int, typer.Option("--max-pdu", metavar="BYTES", help="Of one protocol unit.")] = 131_072,
    keep_days: common.KeepDays = 14.0,
    keep_gib: common.KeepGib = 20.0,
    tries: common.Tries = 3,
    fsync: Annotated[
        str,
        typer.Option("--fsync", metavar="WHEN", help="always: before it is acknowledged; soon: right after; never."),
    ] = "soon",
    recipe: common.Recipe = "default",
    cheaper: common.Cheaper = "fast",
    deadline_s: common.Deadline = None,
    queue: common.Queue = 4,
    shape: common.Shape = None,
    device: common.Device = "auto",
    precision: common.Precision = "f32",
    models: common.Models = None,
    health: common.Health = None,
    log: common.LogFile = None,
    drain_s: common.Drain = 60.0,
    threads: common.Threads = None,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> int:
    """Receive studies by C-STORE, send their susceptibility maps to other nodes.

    \b
    qsm serve dicom --spool /data/spool --host 0.0.0.0 --calling MR1 --to PACS@10.0.0.5:104
    """
    chosen = common.shared(
        recipe, cheaper, deadline_s, threads, queue, shape, device, precision, models, health, log, drain_s, quiet,
        as_json,
    )  # fmt: skip
    if spool is None:
        raise UsageError("no spool: give a folder with --spool")
    if fsync not in FSYNC:
        raise UsageError(f"--fsync takes one of {', '.join(FSYNC)}, got {fsync!r}")
    common.check_port(port=port)
    common.check_above_zero(
        give_up_h=give_up_h, max_object_mib=max_object_mib, max_objects=max_objects, max_spool_mib=max_spool_mib,
        max_associations=max_associations, keep_days=keep_days, keep_gib=keep_gib, tries=tries,
    )  # fmt: skip

    from qsm_runtime.serve.dicom_jobs import Timing
    from qsm_runtime.serve.dicom_node import DicomNode
    from qsm_runtime.serve.dicom_send import Destination
    from qsm_runtime.serve.dicom_settings import NodeSettings
    from qsm_runtime.serve.keep import Keep
    from qsm_runtime.serve.spool_limits import Limits

    settings = NodeSettings(
        spool, port, host, ae, tuple(calling or ()), tuple(peer or ()),
        tuple(Destination.parse(words) for words in to or ()), Timing(settle_s, timeout_s),
        Limits(max_objects, max_spool_mib, Keep(keep_days, keep_gib), fsync=fsync),  # type: ignore[arg-type]
        max_object_mib, max_associations, max_pdu, give_up_h, threads, tries,
    )  # fmt: skip

    def build(core: "Core", log: "StudyLog") -> "Sequence[FrontEnd]":
        return [DicomNode(settings, core, log)]

    return common.serve(chosen, build)
