"""One scan of a run: read, reconstruct, write the maps and their picture."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import io, pipeline, stages
from qsm_runtime.cli.formats import check_dicom, write_dicom
from qsm_runtime.cli.progress import Progress
from qsm_runtime.errors import UsageError
from qsm_runtime.io.atomic import check_writable
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.provenance import memory_fields, networks_said, sidecar_fields
from qsm_runtime.recipe import Recipe
from qsm_runtime.report.picture import overview

SAVEABLE = ("mask", "total", "local", "reliability", "r2star", "swi")
PACKAGES = (
    "qsm_runtime", "numpy", "scipy", "numba", "pyfftw", "nibabel", "pydicom", "onnxruntime", "onnxruntime-gpu",
    "onnxruntime-ep-openvino", "openvino",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to do with each scan. region: mask file of the reference region. save: of SAVEABLE, formats: of FORMATS."""

    recipe: Recipe
    output: Path
    save: tuple[str, ...] = ()
    region: Path | None = None
    overwrite: bool = False
    picture: bool = True
    threads: int | None = None
    runtime: Runtime | None = None
    formats: tuple[str, ...] = ("nifti",)


@dataclass(frozen=True)
class Done:
    """A finished scan: what was made of what, and the document for --json."""

    acquisition: io.Acquisition
    result: pipeline.Result
    document: dict[str, Any]


def parse_save(texts: list[str]) -> tuple[str, ...]:
    """The maps of `--save`, comma-separated. Raises UsageError."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    known = (*SAVEABLE, "all", "chi")
    for name in names:
        if name not in known:
            raise UsageError(stages.unknown("map to save", name, known))
    return SAVEABLE if "all" in names else tuple(name for name in SAVEABLE if name in names)


def reconstruct_one(job: Job, read: Callable[[], io.Acquisition], progress: Progress) -> Done:
    """Read a scan, reconstruct it and write its maps; outputs that must not be written are found out first."""
    start = time.perf_counter()
    with progress.step("read"):
        acquisition = read()
    for text in acquisition.warnings:
        progress.warn(text)
    kinds = ("chi", *job.save)
    if "nifti" in job.formats:
        io.check_outputs(job.output, acquisition, kinds, overwrite=job.overwrite)
    check_dicom(job.formats, job.output, acquisition, kinds, overwrite=job.overwrite)
    picture_path = _picture_path(job.output, acquisition)
    if job.picture:
        check_writable([picture_path], acquisition.source_paths, job.overwrite)
    region = None
    if job.region is not None:
        region, said = io.read_mask(job.region, like=acquisition)
        for text in said:
            progress.warn(text)

    extras = tuple(name for name in job.save if name in pipeline.EXTRAS)
    result = pipeline.reconstruct(
        acquisition.scan, job.recipe, mask=acquisition.mask, region=region, extras=extras, progress=progress.event,
        runtime=job.runtime,
    )  # fmt: skip
    networks = networks_said(result.record["chosen"])
    for text in networks:
        progress.say(text)
    for text in result.warnings:
        progress.warn(text)
    with progress.step("write"):
        maps = _maps(result, job.save)
        outputs: dict[str, Path] = {}
        if "nifti" in job.formats:
            record = _record(job, acquisition, result)
            outputs = io.write_maps(job.output, acquisition, maps, record, overwrite=job.overwrite, threads=job.threads)
        written, said = write_dicom(
            job.formats, job.output, acquisition, maps, result.record, result.warnings, overwrite=job.overwrite
        )
        outputs |= written
    for text in said:
        progress.warn(text)
    if job.picture:
        with progress.step("picture"):
            picture = overview(acquisition.scan, result, acquisition.affine, acquisition.name, _said(job.recipe))
            io.write_files({picture_path: [picture]}, inputs=acquisition.source_paths, overwrite=job.overwrite)
        outputs = {**outputs, "picture": picture_path}
    document = {
        "name": acquisition.name,
        "outputs": outputs,
        "warnings": [*acquisition.warnings, *result.warnings, *said],
        "reference": result.record["reference"],
        "recipe": result.record["recipe"],
        "chosen": result.record["chosen"],
        "networks": networks,
        "mask_voxels": int(np.count_nonzero(result.brain_mask)),
        "valid_voxels": int(np.count_nonzero(result.mask)),
        "seconds": {**progress.seconds, **result.record["seconds"], "all": round(time.perf_counter() - start, 4)},
    }
    return Done(acquisition, result, document)


def software_versions() -> dict[str, str]:
    """Python and the packages that made the numbers."""
    found = {"python": ".".join(str(n) for n in sys.version_info[:3])}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _picture_path(output: Path, acquisition: io.Acquisition) -> Path:
    return io.map_path(output, acquisition, "chi").with_name(f"{acquisition.name}_Chimap.png")


def _maps(result: pipeline.Result, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    arrays = {
        "mask": result.mask,
        "total": result.total_ppm,
        "local": result.local_ppm,
        "reliability": result.reliability,
        "r2star": result.r2star_per_s,
        "swi": result.swi,
    }
    return {"chi": result.chi_ppm} | {n: a for n, a in arrays.items() if n in names and a is not None}


def _said(recipe: Recipe) -> str:
    """The methods in one line."""
    shown = ("unwrap", "field", "background", "inversion", "single_step")
    return f"{recipe.name}: " + ", ".join(recipe.steps[s].method for s in shown if s in recipe.used)


def _record(job: Job, acquisition: io.Acquisition, result: pipeline.Result) -> dict[str, Any]:
    """Fields for the sidecars."""
    fields = sidecar_fields(result)
    fields |= memory_fields(fields["ChosenParameters"], job.runtime)
    fields["SoftwareVersions"] = software_versions()
    if acquisition.mask is not None:  # the last file read
        fields["Options"]["mask"] = {"method": "user", "file": acquisition.source_paths[-1].name}
    if job.region is not None:
        fields["chi"]["ReferenceRegion"] = f"region {job.region.name}"
    return fields
