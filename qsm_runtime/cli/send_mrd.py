"""`qsm send mrd`: a scan sent as a scanner would, and the map that comes back."""

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json
from qsm_runtime.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from qsm_runtime.io.mrd.client import Outgoing, Reply


def mrd(
    folder: options.Input = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="HOST:PORT", help="A server; - writes the stream to standard output.")
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Send nothing: read an answer to SCAN from standard input.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the map goes.")] = None,
    data_type: Annotated[
        str, typer.Option("--data-type", metavar="TYPE", help="Of the images: float32, exact, or uint16 of 12 bits.")
    ] = "float32",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter, such as datatype=uint16. Repeatable."),
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait-s", metavar="S", help="Longest silence of the server.")] = 1000.0,
    select: options.Select = None,
    magnitude: options.Magnitude = None,
    phase: options.Phase = None,
    real: options.Real = None,
    imaginary: options.Imaginary = None,
    complex_: options.Complex = None,
    echo_times_ms: options.EchoTimes = None,
    b0_tesla: options.B0Tesla = None,
    imaging_frequency_mhz: options.ImagingFrequency = None,
    phase_scale: options.PhaseScale = "auto",
    phase_sign: options.PhaseSign = "auto",
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Send a scan (BIDS, DICOM, NIfTI) to an MRD server, and write the susceptibility map that comes back.

    \b
    qsm send mrd sub-1 --to 127.0.0.1:9002 -o OUT
    qsm send mrd sub-1 --to - | qsm serve mrd --stdin | qsm send mrd sub-1 --stdin -o OUT
    """
    from qsm_runtime import io
    from qsm_runtime.cli.progress import Progress
    from qsm_runtime.cli.source import find_one, source
    from qsm_runtime.io.mrd.client import Outgoing

    if (to is None) == (not stdin):
        raise UsageError("give --to HOST:PORT, or --stdin for an answer that comes through a pipe")
    if to != "-" and output is None:
        raise UsageError("no output: give a folder with -o")
    given = {"datatype": "float32", **options.settings(parameter)}
    wanted = source(
        folder, select, magnitude, phase, real, imaginary, complex_, None, echo_times_ms, b0_tesla,
        imaging_frequency_mhz, phase_scale, phase_sign, None, threads,
    )  # fmt: skip
    with Progress(quiet) as progress:
        with progress.step("read"):
            acquisition = find_one(wanted).read()
        for text in acquisition.warnings:
            progress.warn(text)
        outgoing = Outgoing(acquisition, data_type, acquisition.name)  # type: ignore[arg-type]
        if to == "-":
            with progress.step("send"):
                _to_stdout(outgoing, given)
            return 0
        if output is None:
            raise UsageError("no output: give a folder with -o")
        io.check_outputs(output, acquisition, ("chi",), overwrite=overwrite)
        start = time.perf_counter()
        with progress.step("answer"):
            reply = _from_stdin() if stdin else _talk(str(to), wait_s, outgoing, given)
        for text in reply.warnings:
            progress.warn(text)
        chi_ppm = reply.map_ppm(outgoing)
        fields = {"MrdDataType": reply.data_type, "Warnings": reply.warnings, **reply.fields}
        outputs = io.write_maps(output, acquisition, {"chi": chi_ppm}, fields, overwrite=overwrite, threads=threads)
        progress.say(f"{reply.originals} images came back as they went; map: {outputs['chi']}")
    document: dict[str, Any] = {
        "name": acquisition.name,
        "outputs": outputs,
        "originals": reply.originals,
        "texts": reply.texts,
        "data_type": reply.data_type,
        "seconds": round(time.perf_counter() - start, 4),
    }
    if as_json:
        print_json(document)
    return 0


def _talk(to: str, wait_s: float, outgoing: "Outgoing", parameters: dict[str, str]) -> "Reply":
    from qsm_runtime.io.mrd.client import converse
    from qsm_runtime.io.mrd.streams import SocketStream

    host, _, port = to.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise UsageError(f"--to takes HOST:PORT, got {to!r}")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=wait_s)
    except OSError as error:
        said = f"{to}: no server answers there ({error.strerror or error}); start it with qsm serve mrd"
        raise InputError(said) from error
    with connection:
        return converse(SocketStream(connection, wait_s, wait_s), outgoing, parameters)


def _to_stdout(outgoing: "Outgoing", parameters: dict[str, str]) -> None:
    from qsm_runtime.io.mrd.protocol import Ended
    from qsm_runtime.io.mrd.streams import PipeStream

    if sys.stdout.isatty():
        raise UsageError("--to - writes binary data; send standard output to a pipe or a file")
    stream = PipeStream(None, sys.stdout.buffer)
    try:
        outgoing.send(stream, parameters)
        stream.flush()
    except Ended as error:
        raise OutputError(f"the stream was not taken to its end ({error})") from None


def _from_stdin() -> "Reply":
    from qsm_runtime.io.mrd.client import receive
    from qsm_runtime.io.mrd.streams import PipeStream

    return receive(PipeStream(sys.stdin.buffer, None))
