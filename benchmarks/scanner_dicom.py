"""From a scanner's last slice in to the last slice of the map out, through DICOM over loopback.

A simulated head is written as Siemens DICOM (magnitude and phase, a slice of an echo each), sent by dcmtk's storescu
to `qsm serve dicom` in a process of its own, and the map received by dcmtk's storescp; one study after another, each
with UIDs of its own. "In" is when the node has stored the last object, "out" when storescp has written the last one.

    python -m benchmarks.scanner_dicom --studies 20 -o benchmarks/results/scanner_dicom.jsonl
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.inputs import grid_of
from qsm_runtime import bench
from qsm_runtime.phantom import simulate_head
from qsm_runtime.scan import Scan

CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
LIMIT_S = 180.0
SAMPLE_S = 0.2
READY_S = 600.0


def main(argv: list[str] | None = None) -> int:
    """Measure and append one record for each study and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="160,192,128@1.2", help="of the head: NX,NY,NZ@V")
    parser.add_argument("--echoes", type=int, default=4)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--settle-s", type=float, default=2.0)
    parser.add_argument("--fsync", default="soon", choices=["always", "soon", "never"])
    parser.add_argument("--order", default="echoes", choices=["echoes", "slices"], help="in which slices are sent")
    parser.add_argument("--output", "-o", type=Path, default=None, help="JSON lines; standard output without")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the spool")
    given = parser.parse_args(argv)
    for program in ("storescu", "storescp"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed (Debian: dcmtk)")
    with tempfile.TemporaryDirectory(prefix="qsm-node-", dir=given.scratch) as scratch:
        return run(given, Path(scratch))


def run(given: argparse.Namespace, scratch: Path) -> int:
    grid = grid_of(given.size)
    times_s = tuple(0.004 + 0.006 * i for i in range(given.echoes))
    scan = simulate_head(grid, echo_times_s=times_s, oversample=1).scan
    datasets = list(planes(scan, grid.voxel_mm, given.order))
    case = {
        "front_end": "dicom", "shape": list(grid.shape), "echoes": given.echoes, "objects": len(datasets),
        "recipe": given.recipe, "threads": given.threads, "settle_s": given.settle_s, "fsync": given.fsync,
        "order": given.order,
    }  # fmt: skip
    environment, start, records = bench.environment(), bench.Ticks.now(), []
    archive, node = Archive(scratch / "archive"), None
    try:
        node = Node(scratch, given, archive.port, grid.shape)
        for number in range(1, given.studies + 1):
            paths = write_study(datasets, scratch / "study")
            record = one_study(node, archive, paths, grid.shape[2])
            record = {"kind": "scanner", "case": {**case, "study": number}, **record, "environment": environment}
            records.append(record)
            report(given.output, record)
            if record["status"] != "ok":
                break
        peak = node.memory.peak_mib
    finally:
        for one in (node, archive):
            if one is not None:
                one.stop()
    good = [one for one in records if one["status"] == "ok"]
    if good:
        latency = [one["time"]["last_in_to_last_out_s"] for one in good]
        whole = {
            "kind": "scanner",
            "case": {**case, "study": "all"},
            "status": "ok",
            "time": {"warm_s": latency, **bench.summary(latency)},
            "receive_per_s": [one["receive"]["per_s"] for one in good],
            "overlapped_s": [one["time"]["overlapped_s"] for one in good],
            "memory": {"peak_mib": peak, "after_mib": [one["memory"]["after_mib"] for one in good]},
            "load": bench.load_between(start, bench.Ticks.now()),
            "environment": environment,
        }
        report(given.output, whole)
    return int(len(good) < given.studies)


def report(path: Path | None, record: dict[str, Any]) -> None:
    if path is None:
        print(json.dumps({"schema": bench.SCHEMA, **record}, default=float), flush=True)
        return
    bench.append(path, record)
    brief = record.get("time", record)
    print(json.dumps({"study": record["case"]["study"], **brief}, default=float), flush=True)


def planes(scan: Scan, voxel_mm: tuple[float, float, float], order: str) -> Iterator[Dataset]:
    """Axial planes as Siemens stores them: 12 bits, phase 0..4095 for one turn, each part a series of its own."""
    scale = 4000 / float(scan.magnitude.max())
    parts = {
        "M": np.rint(scan.magnitude * scale).astype("<u2"),
        "P": (np.rint((scan.phase_rad + np.pi) / (2 * np.pi) * 4096).astype("<u2")) & 4095,
    }
    echoes, nz = scan.n_echoes, scan.grid.shape[2]
    places = [(part, echo, k) for part in parts for echo in range(echoes) for k in range(nz)]
    if order == "slices":
        places.sort(key=lambda place: (place[2], place[1]))
    corner = [-(n - 1) * v / 2 for n, v in zip(scan.grid.shape, voxel_mm, strict=True)]
    for number, (part, echo, k) in enumerate(places, 1):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CLASSIC_MR
        ds.ImageType = ["ORIGINAL", "PRIMARY", part, "ND"]
        ds.StudyDate = ds.AcquisitionDate = "20260101"
        ds.StudyTime = ds.AcquisitionTime = "101112"
        ds.Modality, ds.Manufacturer, ds.PatientName, ds.PatientID = "MR", "SIEMENS", "Phantom^Head", "PHANTOM"
        ds.SeriesDescription, ds.ProtocolName, ds.SeriesNumber = "gre_qsm", "gre_qsm", 7 + (part == "P")
        ds.ScanningSequence, ds.MRAcquisitionType, ds.ImagedNucleus = "GR", "3D", "1H"
        ds.EchoTime, ds.EchoNumbers = f"{1000 * scan.echo_times_s[echo]:g}", echo + 1
        ds.EchoTrainLength = echoes
        ds.MagneticFieldStrength, ds.ImagingFrequency = "3", f"{42.577478518 * scan.b0_tesla:.6f}"
        ds.InstanceNumber = number
        ds.ImagePositionPatient = [f"{corner[0]:.6g}", f"{corner[1]:.6g}", f"{corner[2] + k * voxel_mm[2]:.6g}"]
        ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        ds.PixelSpacing = [f"{voxel_mm[1]:g}", f"{voxel_mm[0]:g}"]
        ds.SliceThickness = f"{voxel_mm[2]:g}"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Columns, ds.Rows = scan.grid.shape[:2]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        # rows run to the left and columns to the back in DICOM, the array to the right and to the front
        ds.PixelData = np.ascontiguousarray(parts[part][echo, ::-1, ::-1, k].T).tobytes()
        yield ds


def write_study(datasets: list[Dataset], folder: Path) -> list[Path]:
    """The same images under new UIDs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    study, frame, series = generate_uid(), generate_uid(), {7: generate_uid(), 8: generate_uid()}
    paths = []
    for i, ds in enumerate(datasets):
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = study, frame
        ds.SeriesInstanceUID = series[int(ds.SeriesNumber)]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{study[:50]}.{i + 1}"
        paths.append(folder / f"{i:05d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def one_study(node: "Node", archive: "Archive", paths: list[Path], expected: int) -> dict[str, Any]:
    """Send a study, wait for its map, and say when what was where."""
    before = bench.Ticks.now()
    seen = archive.names()
    start = time.time()
    command = ["storescu", "-aec", "QSM", "-aet", "SCANNER", "127.0.0.1", str(node.port), *map(str, paths)]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    sent_s = time.time() - start
    if sent.returncode:
        return {"status": "crashed", "error": f"storescu: {sent.stderr.strip()[-300:]}"}
    end = time.monotonic() + LIMIT_S
    while len(archive.names() - seen) < expected or len(node.events("answer.sent")) < node.studies + 1:
        if time.monotonic() > end or node.process.poll() is not None:
            return {"status": "over_budget", "error": f"no map after {LIMIT_S:g} s", "log": node.log_text()[-800:]}
        time.sleep(0.01)
    node.studies += 1
    answered, received = node.events("scan.answered")[-1], node.events("association.ended")[-1]
    job = node.spool / "done" / answered["job"]
    stored = [path.stat().st_mtime for path in job.glob("*.dcm")]
    out = [(archive.folder / name).stat().st_mtime for name in archive.names() - seen]
    rate = {"objects": received["objects"], "seconds": received["seconds"]}
    time.sleep(2 * SAMPLE_S)
    return {
        "status": "ok",
        "time": {
            "last_in_to_last_out_s": max(out) - max(stored),
            "last_in_to_first_out_s": min(out) - max(stored),
            "send_s": sent_s,
            "overlapped_s": answered.get("overlapped_s"),
            "reconstruct_s": answered.get("all_s"),
            "read_s": answered["read_s"],
            "write_s": answered["write_s"],
            "stages_s": answered.get("seconds"),
        },
        "receive": {**rate, "per_s": rate["objects"] / rate["seconds"]},
        "recipe": answered["recipe"],
        "late": answered["late"],
        "memory": {
            "after_mib": node.memory.now_mib,
            "peak_mib": node.memory.peak_mib,
            "worker": answered.get("peak_mib"),
        },
        "load": bench.load_between(before, bench.Ticks.now()),
    }


class Node:
    """`qsm serve dicom` in a process of its own, warm."""

    def __init__(self, scratch: Path, given: argparse.Namespace, archive: int, shape: tuple[int, ...]) -> None:
        self.spool, self.log, self.studies = scratch / "spool", scratch / "node.log", 0
        command = [
            sys.executable, "-m", "qsm_runtime.cli", "serve", "dicom", "--spool", str(self.spool), "--port", "0",
            "--to", f"ARCHIVE@127.0.0.1:{archive}", "--recipe", given.recipe, "--settle-s", str(given.settle_s),
            "--fsync", given.fsync, "--log", str(self.log), "--shape", ",".join(map(str, shape)), "--json",
        ]  # fmt: skip
        if given.threads:
            command += ["--threads", str(given.threads)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._drain, daemon=True).start()
        killer = threading.Timer(READY_S, self.process.kill)
        killer.start()
        text = ""
        while line := (self.process.stdout or sys.stdin).readline():
            text += line
            if line.rstrip() == "}":
                break
        killer.cancel()
        if not text:
            raise SystemExit(f"the node did not start: {self._said[-2000:]}")
        self.port = int(json.loads(text)["front_ends"]["dicom"]["where"].rsplit(":", 1)[1])
        self.memory = Memory(self.process.pid)

    _said = ""

    def _drain(self) -> None:
        for line in self.process.stderr or ():
            self._said += line

    def log_text(self) -> str:
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for text in self.log_text().splitlines() if (line := json.loads(text))["event"] == name]

    def stop(self) -> None:
        self.memory.stop()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Archive:
    """dcmtk's storescp."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = ["storescp", "-aet", "ARCHIVE", "--max-pdu", "131072", "-od", str(folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def names(self) -> set[str]:
        return set(os.listdir(self.folder))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


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
            self.now_mib = round(sum(map(_pss_mib, _family(self.pid))), 1)
            self.peak_mib = max(self.peak_mib, self.now_mib)


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
