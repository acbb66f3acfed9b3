"""From a scanner's last slice in to the last slice of the map out, through MRD over loopback.

A simulated head is sent as FIRE sends it (magnitude and phase, 12 bits, a slice of an echo each) to `qsm serve mrd` in
a process of its own, one study after another; the images are encoded before the clock runs. "In" is when the last
slice has been given to the connection, "out" when the last slice of the map has been read from it, on the client's
side; the originals, which come back before the map, are read too.

    python -m benchmarks.scanner_mrd --studies 20 -o benchmarks/results/scanner.jsonl
    python -m benchmarks.scanner_mrd --arrival-s 20      # slices spread over so long, as from a running scan
"""

import argparse
import io
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.scanner import LIMIT_S, SAMPLE_S, Server, arguments, head, measure
from qsm_runtime import bench
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd import writer
from qsm_runtime.io.mrd.client import Outgoing
from qsm_runtime.io.mrd.described import meta_of
from qsm_runtime.io.mrd.streams import PipeStream, SocketStream
from qsm_runtime.simulated import placement_of

LAST_LOOK_S = 3 * SAMPLE_S


def main(argv: list[str] | None = None) -> int:
    """Measure and append one record for each study and one for all."""
    parser = arguments(__doc__)
    parser.add_argument("--arrival-s", type=float, default=0.0, help="over which slices are spread; 0: at once")
    parser.add_argument("--data-type", default="uint16", choices=["uint16", "int16", "float32"], help="of the map")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="qsm-mrd-") as scratch:
        return run(given, Path(scratch))


def run(given: argparse.Namespace, scratch: Path) -> int:
    scan = head(given)
    grid = scan.grid
    outgoing = Outgoing(Acquisition(scan, placement_of(grid), "head", (), "", 1, "", ""), "uint16")
    messages = encoded(outgoing, given.data_type)
    images = len(messages) - 2
    case = {
        "front_end": "mrd", "shape": list(grid.shape), "echoes": given.echoes, "objects": images,
        "recipe": given.recipe, "threads": given.threads, "arrival_s": given.arrival_s, "data_type": given.data_type,
    }  # fmt: skip
    server = Server("mrd", scratch, given, grid.shape)
    try:
        return measure(given, case, server, lambda: one_study(server, messages, grid.shape[2], given.arrival_s))
    finally:
        server.stop()


def encoded(outgoing: Outgoing, data_type: str) -> list[bytes]:
    """What the client says, in pieces: what comes before the images, each image, CLOSE."""

    def piece(write: Any, *arguments: Any) -> bytes:
        out = io.BytesIO()
        write(PipeStream(None, out), *arguments)
        return out.getvalue()

    asked = {"parameters": {"config": "qsm", "phasesign": "plus", "datatype": data_type}}
    begin = piece(writer.write_config, "qsm") + piece(writer.write_header, outgoing.header())
    begin += piece(writer.write_text, json.dumps(asked))
    return [begin, *(piece(writer.write_image, image) for image in outgoing.images()), piece(writer.write_close)]


def one_study(server: Server, messages: list[bytes], slices: int, arrival_s: float) -> dict[str, Any]:
    """Send a study, read the answer meanwhile, and say when what was where."""
    before = bench.Ticks.with_children()
    last_in: list[float] = []
    failed: list[OSError] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as connection:
        begun = time.perf_counter()

        def send() -> None:
            try:
                for number, piece in enumerate(messages):
                    if arrival_s:
                        due = begun + arrival_s * number / len(messages)
                        time.sleep(max(0.0, due - time.perf_counter()))
                    connection.sendall(piece)
                    if number == len(messages) - 2:
                        last_in.append(time.perf_counter())
            except OSError as error:
                failed.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        out: list[float] = []
        originals, texts = 0, []
        try:
            for message in mrd.Reader(SocketStream(connection, LIMIT_S, LIMIT_S)):
                if isinstance(message, mrd.Text):
                    texts.append(message.text)
                elif isinstance(message, mrd.Image) and meta_of(message.meta).get("DataRole") == ["Quantitative"]:
                    out.append(time.perf_counter())
                elif isinstance(message, mrd.Image):
                    originals += 1
        except mrd.ProtocolError as error:
            return {"status": "over_budget", "error": str(error)}
        sender.join()
    if failed or len(out) != slices or originals != len(messages) - 2:
        said = "; ".join([*map(str, failed), *texts])
        return {"status": "crashed", "error": f"{len(out)} slices and {originals} originals came back; {said}"}
    answered, received = server.events("mrd.answered")[-1], server.events("mrd.received")[-1]
    reconstructed = server.events("reconstructed")[-1]
    time.sleep(LAST_LOOK_S)
    seconds = received["seconds"]
    return {
        "status": "ok",
        "time": {
            "last_in_to_last_out_s": out[-1] - last_in[0],
            "last_in_to_first_out_s": out[0] - last_in[0],
            "send_s": last_in[0] - begun,
            "server_tail_s": answered["tail_s"],
            "overlapped_s": answered["overlapped_s"],
            "reconstruct_s": answered["all_s"],
            "read_s": answered["read_s"],
            "stages_s": reconstructed.get("seconds"),
        },
        "receive": {
            "objects": received["images"],
            "seconds": seconds,
            "per_s": received["images"] / seconds,
            "mib_per_s": received["mib_per_s"],
        },
        "recipe": answered["recipe"],
        "late": answered["late"],
        "memory": {
            "after_mib": server.memory.now_mib,
            "peak_mib": server.memory.peak_mib,
            "worker": reconstructed.get("peak_mib"),
        },
        "load": bench.load_between(before, bench.Ticks.with_children()),
    }


if __name__ == "__main__":
    sys.exit(main())
