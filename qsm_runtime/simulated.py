"""A simulated head on disk: a raw BIDS dataset as a scanner's would be, with its truth as a derivative."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import io
from qsm_runtime.grid import Grid
from qsm_runtime.phantom import LABELS, Head

BIDS_VERSION = "1.10.0"
TRUTH = Path("derivatives") / "truth"


def write_head(folder: Path, head: Head, subject: str, *, overwrite: bool = False) -> list[Path]:
    """Write magnitude and phase (rad) an echo, sidecars, and the truth; returns the paths of the images.

    Raises OutputError; existing files are replaced only with overwrite.
    """
    scan, truth = head.scan, head.truth
    placement = placement_of(scan.grid)
    anat = Path(f"sub-{subject}") / "anat"
    written: list[Path] = []

    def write(path: Path, array: np.ndarray, fields: dict[str, Any]) -> None:
        io.write_map(folder / path, array, placement, fields, overwrite=overwrite)
        written.append(folder / path)

    _describe(folder, "Simulated head", "raw", overwrite)
    _describe(folder / TRUTH, "Truth of the simulated head", "derivative", overwrite)
    common = {"MagneticFieldStrength": scan.b0_tesla}
    for echo, seconds in enumerate(scan.echo_times_s):
        fields = {**common, "EchoTime": seconds, "EchoNumber": echo + 1}
        stem = f"sub-{subject}_echo-{echo + 1}_part"
        write(anat / f"{stem}-mag_MEGRE.nii.gz", scan.magnitude[echo], {**fields, "Units": "arbitrary"})
        write(anat / f"{stem}-phase_MEGRE.nii.gz", scan.phase_rad[echo], {**fields, "Units": "rad"})
    for ending, array, units in (
        ("Chimap", truth.chi_ppm, "ppm"),
        ("mask", truth.mask, ""),
        ("dseg", truth.labels.astype(np.float32), ""),
        ("desc-total_fieldmap", truth.total_ppm, "ppm"),
        ("desc-local_fieldmap", truth.local_ppm, "ppm"),
        ("R2starmap", truth.r2star_hz, "1/s"),
    ):
        write(TRUTH / anat / f"sub-{subject}_{ending}.nii.gz", array, {"Units": units} if units else {})
    names = "".join(f"{code}\t{name}\n" for name, code in LABELS.items())
    labels = folder / TRUTH / anat / f"sub-{subject}_dseg.tsv"
    io.write_files({labels: [f"index\tname\n{names}".encode()]}, overwrite=overwrite)
    return written


def placement_of(grid: Grid) -> io.Placement:
    """Frame of a simulated image: B0 along the world's z axis, the grid's middle at the origin."""
    third = np.asarray(grid.b0_dir)
    start = np.eye(3)[0 if abs(third[0]) < 0.9 else 1]  # world x as near to array x as B0 allows
    first = start - third * (start @ third)
    first /= np.linalg.norm(first)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([first, np.cross(third, first), third]) * grid.voxel_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(grid.shape) - 1) / 2)
    return io.Placement(affine, affine, 1, affine, 1)


def _describe(folder: Path, name: str, kind: str, overwrite: bool) -> None:
    fields: dict[str, Any] = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": kind}
    if kind == "derivative":
        fields["GeneratedBy"] = [{"Name": "qsm_runtime"}]
    text = (json.dumps(fields, indent=2) + "\n").encode()
    io.write_files({folder / "dataset_description.json": [text]}, overwrite=overwrite)
