"""From a scanner's last slice in to the last slice of the map out, through DICOM over loopback.

A simulated head is written as Siemens DICOM (magnitude and phase, a slice of an echo each), sent by dcmtk's storescu
to `qsm serve dicom` in a process of its own, and the map received by dcmtk's storescp; one study after another, each
with UIDs of its own. "In" is when the node has stored the last object, "out" when storescp has written the last one.

    python -m benchmarks.scanner_dicom --studies 20 -o benchmarks/results/scanner.jsonl
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.scanner import LIMIT_S, SAMPLE_S, Server, arguments, head, measure
from qsm_runtime import bench
from qsm_runtime.scan import Scan

CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"


def main(argv: list[str] | None = None) -> int:
    """Measure and append one record for each study and one for all."""
    parser = arguments(__doc__)
    parser.add_argument("--settle-s", type=float, default=2.0)
    parser.add_argument("--fsync", default="soon", choices=["always", "soon", "never"])
    parser.add_argument("--order", default="echoes", choices=["echoes", "slices"], help="in which slices are sent")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the spool")
    given = parser.parse_args(argv)
    for program in ("storescu", "storescp"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed (Debian: dcmtk)")
    with tempfile.TemporaryDirectory(prefix="qsm-node-", dir=given.scratch) as scratch:
        return run(given, Path(scratch))


def run(given: argparse.Namespace, scratch: Path) -> int:
    scan = head(given)
    grid = scan.grid
    datasets = list(planes(scan, grid.voxel_mm, given.order))
    case = {
        "front_end": "dicom", "shape": list(grid.shape), "echoes": given.echoes, "objects": len(datasets),
        "recipe": given.recipe, "threads": given.threads, "settle_s": given.settle_s, "fsync": given.fsync,
        "order": given.order,
    }  # fmt: skip
    archive = Archive(scratch / "archive")
    try:
        node = Node(scratch, given, archive.port, grid.shape)
        try:
            return measure(
                given,
                case,
                node,
                lambda: one_study(node, archive, write_study(datasets, scratch / "study"), grid.shape[2]),
            )
        finally:
            node.stop()
    finally:
        archive.stop()


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
    before = bench.Ticks.with_children()
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
            return {"status": "over_budget", "error": f"no map after {LIMIT_S:g} s", "log": node.log.read_text()[-800:]}
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
        "load": bench.load_between(before, bench.Ticks.with_children()),
    }


class Node(Server):
    """`qsm serve dicom`, with what it received and made."""

    def __init__(self, scratch: Path, given: argparse.Namespace, archive: int, shape: tuple[int, ...]) -> None:
        self.spool, self.studies = scratch / "spool", 0
        super().__init__(
            "dicom", scratch, given, shape, "--spool", str(self.spool), "--to", f"ARCHIVE@127.0.0.1:{archive}",
            "--settle-s", str(given.settle_s), "--fsync", given.fsync,
        )  # fmt: skip


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


if __name__ == "__main__":
    sys.exit(main())
