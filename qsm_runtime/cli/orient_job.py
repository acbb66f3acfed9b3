"""`qsm orient` once its inputs are known: what could fail is found out first, then fields, alignment, maps, files."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import io
from qsm_runtime.cli import orient_maps
from qsm_runtime.cli.job import software_versions
from qsm_runtime.cli.orient_inputs import Orientation, voxel_on_voxel
from qsm_runtime.cli.stage_call import Calls
from qsm_runtime.errors import InputError, ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.io.atomic import check_writable
from qsm_runtime.orientation import geometry
from qsm_runtime.orientation.align import align, directions_in_first
from qsm_runtime.pipeline import Event

STILL_DEGREES = 2.0  # B0 directions closer than this are those of a head that no header or transform turns
FIELD_WORDS = ("local", "field", "fieldmap")
OVERLAP_WARNED, OVERLAP_NEEDED = 0.7, 0.3  # of a scan's masked volume that all orientations share


@dataclass(frozen=True)
class Request:
    """What to combine and how. beside: files read apart from the orientations' own; stated: B0 came from a file."""

    method: str
    orientations: Sequence[Orientation]
    output: Path
    name: str | None
    align: str
    transforms: list[np.ndarray] | None
    stated: bool
    reference: str
    region: Path | None
    beside: Sequence[Path]
    overwrite: bool
    threads: int


def combine(request: Request, calls: Calls) -> dict[str, Any]:
    """Make and write the maps; returns the document for --json. Raises what reading, stages and writing raise."""
    progress, method = calls.progress, request.method
    frames = [one.frame for one in request.orientations]
    paths = [p for frame in frames for p in frame.inputs] + list(request.beside)
    outputs = orient_maps.paths(request.output, request.name or common_name([f.name for f in frames]), method)
    check_writable([q for p in outputs.values() for q in (p, io.sidecar_path(p))], paths, request.overwrite)

    affines, b0_dirs = [f.placement.affine for f in frames], np.array([f.b0_dir for f in frames])
    moves = request.transforms
    if request.align == "voxels":
        affines, b0_dirs = voxel_on_voxel(frames, moves)
        moves = None
    directions = directions_in_first(affines, b0_dirs, moves)
    angles = geometry.angles_degrees(directions)
    if angles.max() < STILL_DEGREES:
        told = request.transforms is not None or request.stated
        raise InputError(_still(float(angles.max()), request.align, told))
    geometry.check_geometry(method, directions)
    condition = geometry.condition_number(method, directions)
    progress.say(
        f"{len(frames)} orientations, up to {angles.max():.0f} degrees apart, condition number {condition:.2g}"
    )

    fields_ppm, masks, made = [], [], []
    for one in request.orientations:
        field_ppm, mask, said = one.field()
        fields_ppm.append(field_ppm)
        masks.append(mask)
        made.append(said)
    voxel_x, voxel_y, voxel_z = np.linalg.norm(affines[0][:3, :3], axis=0).tolist()
    first = frames[0]
    grid = Grid(first.shape, (voxel_x, voxel_y, voxel_z), tuple(directions[0]))
    with progress.step("align"):
        local_ppm, shared, _ = align(fields_ppm, masks, affines, b0_dirs, transforms=moves)
    overlap = [_overlap(shared, grid, mask, affine) for mask, affine in zip(masks, affines, strict=True)]
    _check_overlap(overlap, [f.name for f in frames], calls)
    del fields_ppm, masks

    region = None
    if request.region is not None:
        region, warned = io.read_mask(request.region, like=first.inputs[0])
        for text in warned:
            calls.warn(text)
    start = time.perf_counter()

    def report(fraction: float) -> None:
        progress.event(Event("orientation", method, fraction, time.perf_counter() - start))

    maps = orient_maps.solve(method, local_ppm, shared, grid, directions, report)
    report(1.0)
    result = {
        "Orientations": [
            {
                "Name": frame.name,
                "Sources": list(frame.sources),
                "AngleDegrees": round(float(angles[0, n]), 3),
                "B0Direction": directions[n].round(6).tolist(),
                "Transform": None if request.transforms is None else request.transforms[n].tolist(),
                "SharedMask": round(overlap[n], 4),
                **made[n],
            }
            for n, frame in enumerate(frames)
        ],
        "ConditionNumber": round(condition, 4),
        "LargestAngleDegrees": round(float(angles.max()), 3),
        **orient_maps.refer(maps, grid, request.reference, region),
    }
    record = {
        "Sources": [source for frame in frames for source in frame.sources],
        "EstimationAlgorithm": method,
        "Align": request.align,
        **result,
        "MaskVoxels": int(np.count_nonzero(shared)),
        "SoftwareVersions": software_versions(),
        "Threads": request.threads,
        "Warnings": calls.warnings,
    }
    with progress.step("write"):
        orient_maps.write(
            outputs, method, maps, first.placement, record, inputs=paths, overwrite=request.overwrite,
            threads=request.threads,
        )  # fmt: skip
    return {"outputs": outputs, "method": method, **result, "warnings": calls.warnings}


def common_name(names: list[str]) -> str:
    """The entities that all names share, in order, but for what says "a local field"; else the first name."""
    parts = [[p for p in name.split("_") if p not in FIELD_WORDS and not p.startswith("desc-")] for name in names]
    return "_".join(part for part in parts[0] if all(part in other for other in parts)) or names[0]


def _still(degrees: float, how: str, told: bool) -> str:
    """Why there is no turn between the orientations, and what to do."""
    text = f"B0 has one direction in all orientations (they differ by {degrees:.2g} degrees at most): "
    if told:
        return text + "check the directions and transforms given, or turn the head further"
    if how == "voxels":
        return text + "the affines say that no slab was turned; give --transform or, with --fields, --b0-dirs"
    return text + (
        "the affines place every scan in the scanner's world, where the head's turn is not written; give each scan's "
        "transform to the first with --transform, B0 of fields with --b0-dirs, or --align voxels where the slab was "
        "turned with the head and arrays match voxel by voxel"
    )


def _overlap(shared: np.ndarray, grid: Grid, mask: np.ndarray, affine: np.ndarray) -> float:
    """The volume that all orientations share over that of one's mask."""
    volume_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    return float(np.count_nonzero(shared) * grid.voxel_volume_mm3 / (np.count_nonzero(mask) * volume_mm3))


def _check_overlap(overlap: list[float], names: list[str], calls: Calls) -> None:
    """Warn or raise ReconstructionError where a scan hardly meets the others: a wrong transform, most of the time."""
    worst = int(np.argmin(overlap))
    if overlap[worst] >= OVERLAP_WARNED:
        return
    text = (
        f"{names[worst]}: {100 * overlap[worst]:.0f} % of its mask lies in all orientations' masks; check that the "
        "transforms lead from each scan's world to the first's, not back, and the masks"
    )
    if overlap[worst] < OVERLAP_NEEDED:
        raise ReconstructionError(text)
    calls.warn(text)
