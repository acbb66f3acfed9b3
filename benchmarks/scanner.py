"""What the scanner benchmarks share: a warm `qsm serve` in a process of its own, one record a study and one for all."""

import argparse
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.inputs import grid_of
from qsm_runtime import bench
from qsm_runtime.benching.processes import family
from qsm_runtime.phantom import simulate_head
from qsm_runtime.scan import Scan

LIMIT_S = 180.0
SAMPLE_S = 0.2
READY_S = 600.0


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what both benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="160,192,128@1.2", help="of the head: NX,NY,NZ@V")
    parser.add_argument("--echoes", type=int, default=4)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--output", "-o", type=Path, default=None, help="JSON lines; standard output without")
    return parser


def head(given: argparse.Namespace) -> Scan:
    """The scan that is sent."""
    times_s = tuple(0.004 + 0.006 * i for i in range(given.echoes))
    return simulate_head(grid_of(given.size), echo_times_s=times_s, oversample=1).scan


class Server:
    """`qsm serve KIND` in a process of its own, warm."""

    def __init__(self, kind: str, scratch: Path, given: argparse.Namespace, shape: tuple[int, ...], *more: str) -> None:
        self.log = scratch / "server.log"
        self._said = (scratch / "said").open("w")
        command = [
            sys.executable, "-m", "qsm_runtime.cli", "serve", kind, "--port", "0", "--recipe", given.recipe,
            "--log", str(self.log), "--shape", ",".join(map(str, shape)), "--json", *more,
        ]  # fmt: skip
        if given.threads:
            command += ["--threads", str(given.threads)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._said, text=True)
        killer = threading.Timer(READY_S, self.process.kill)
        killer.start()
        text = ""
        for line in self.process.stdout or ():
            text += line
            if line.rstrip() == "}":
                break
        killer.cancel()
        if '"front_ends"' not in text:
            raise SystemExit(f"the server did not start: {(scratch / 'said').read_text()[-2000:]}")
        self.port = int(json.loads(text)["front_ends"][kind]["where"].rsplit(":", 1)[1])
        self.memory = Memory(self.process.pid)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log."""
        lines = [json.loads(text) for text in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    def stop(self) -> None:
        self.memory.stop()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._said.close()


def measure(
    given: argparse.Namespace, case: Mapping[str, Any], server: Server, study: Callable[[], dict[str, Any]]
) -> int:
    """Send `given.studies` by `study`, append a record for each and one for all; 1 where one of them failed."""
    environment, start, good = bench.environment(), bench.Ticks.with_children(), []
    for number in range(1, given.studies + 1):
        record = {"kind": "scanner", "case": {**case, "study": number}, **study(), "environment": environment}
        report(given.output, record)
        if record["status"] != "ok":
            break
        good.append(record)
    if good:
        latency = [one["time"]["last_in_to_last_out_s"] for one in good]
        rates = [key for key in ("per_s", "mib_per_s") if key in good[0]["receive"]]
        whole = {
            "kind": "scanner",
            "case": {**case, "study": "all"},
            "status": "ok",
            "time": {"warm_s": latency, **bench.summary(latency)},
            **{f"receive_{key}": [one["receive"][key] for one in good] for key in rates},
            "overlapped_s": [one["time"]["overlapped_s"] for one in good],
            "memory": {
                "peak_mib": server.memory.peak_mib,
                "after_mib": [one["memory"]["after_mib"] for one in good],
            },
            "load": bench.load_between(start, bench.Ticks.with_children()),
            "environment": environment,
        }
        report(given.output, whole)
    return int(len(good) < given.studies)


def report(path: Path | None, record: dict[str, Any]) -> None:
    """Append a record and print its times; without a path, print it whole."""
    if path is None:
        print(json.dumps({"schema": bench.SCHEMA, **record}, default=float), flush=True)
        return
    bench.append(path, record)
    brief = record.get("time", record)
    print(json.dumps({"study": record["case"]["study"], **brief}, default=float), flush=True)


class Memory:
    """Proportional memory (each shared page once) of a process and its children, now and at most."""

    def __init__(self, pid: int) -> None:
        self.pid, self.now_mib, self.peak_mib = pid, 0.0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.now_mib = round(sum(map(_pss_mib, family(self.pid))), 1)
            self.peak_mib = max(self.peak_mib, self.now_mib)


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
