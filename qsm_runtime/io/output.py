"""Maps as float32 NIfTI in the input's frame, with BIDS derivative sidecars that say how they were made."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from qsm_runtime.errors import OutputError, UsageError
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.atomic import check_writable, write_files
from qsm_runtime.io.gzip_parallel import compress

BIDS_VERSION = "1.10.0"
PACKAGE = "qsm_runtime"
DESCRIPTION_FILE = "dataset_description.json"


@dataclass(frozen=True)
class MapKind:
    """Ending of the file name, BIDS Units and a sentence for the sidecar."""

    ending: str
    units: str
    description: str
    dtype: str = "<f4"


KINDS = {
    "chi": MapKind("Chimap", "ppm", "Magnetic susceptibility (SI), paramagnetic positive"),
    "mask": MapKind("desc-qsm_mask", "", "Voxels in which the susceptibility map is valid", "|u1"),
    "total": MapKind("desc-total_fieldmap", "ppm", "Total field relative to B0, paramagnetic positive"),
    "local": MapKind("desc-local_fieldmap", "ppm", "Field of sources inside the mask, relative to B0"),
    "reliability": MapKind("desc-reliability_fieldmap", "1/ppm", "Inverse standard deviation of the total field"),
    "r2star": MapKind("R2starmap", "1/s", "Transverse relaxation rate R2*"),
    "swi": MapKind("desc-swi_T2starw", "arbitrary", "Susceptibility-weighted image"),
    "minip": MapKind(
        "desc-minip_T2starw", "arbitrary", "Minimum intensity projection of the susceptibility-weighted image"
    ),
}


def map_path(folder: Path | str, acquisition: Acquisition, kind: str) -> Path:
    """Where a map goes: FOLDER/sub-1/anat/sub-1_Chimap.nii.gz for a BIDS input, FOLDER/stem_Chimap.nii.gz else."""
    if kind not in KINDS:
        raise UsageError(f"map {kind!r} is none of {', '.join(KINDS)}")
    return Path(folder) / acquisition.folder / f"{acquisition.name}_{KINDS[kind].ending}.nii.gz"


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def check_outputs(
    folder: Path | str, acquisition: Acquisition, kinds: Sequence[str], *, overwrite: bool = False
) -> list[Path]:
    """Paths of the maps to be written. Raises OutputError now rather than after the reconstruction."""
    folder = Path(folder)
    paths = [map_path(folder, acquisition, kind) for kind in kinds]
    described = folder / DESCRIPTION_FILE
    if acquisition.folder and described.is_file() and _dataset_type(described) != "derivative":
        raise OutputError(
            f"{folder} is a raw BIDS dataset; write to {folder / 'derivatives' / PACKAGE} or another folder"
        )
    check_writable([p for path in paths for p in (path, sidecar_path(path))], acquisition.source_paths, overwrite)
    return paths


def write_maps(
    folder: Path | str,
    acquisition: Acquisition,
    maps: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    *,
    overwrite: bool = False,
    threads: int | None = None,
) -> dict[str, Path]:
    """Write maps by kind (see KINDS; arrays (x, y, z)) with their sidecars, all or none; returns the paths.

    record: JSON-able fields for every sidecar (method, options, versions, threads, reference, warnings), in
    BIDS's CamelCase; a field named like a kind holds fields for that map alone.
    Raises OutputError; existing files are replaced only with overwrite, inputs never.
    """
    folder = Path(folder)
    paths = dict(zip(maps, check_outputs(folder, acquisition, list(maps), overwrite=overwrite), strict=True))
    files: dict[Path, Sequence[bytes]] = {}
    for kind, array in maps.items():
        files[paths[kind]] = encode(array, acquisition.placement, paths[kind], KINDS[kind].dtype, threads)
        files[sidecar_path(paths[kind])] = [json_bytes(_sidecar(kind, acquisition, record))]
    write_files(files, inputs=acquisition.source_paths, overwrite=overwrite)
    described = folder / DESCRIPTION_FILE
    if acquisition.folder and not described.exists():
        write_files({described: [json_bytes(_dataset_description(folder, acquisition))]})
    return paths


def encode(
    array: np.ndarray, placement: Placement, path: Path, dtype: str = "<f4", threads: int | None = None
) -> list[bytes]:
    """Bytes of a NIfTI-1 file of `array`, (x, y, z) or (echo, x, y, z), gzipped where `path` ends in .gz."""
    if array.ndim not in (3, 4):
        raise OutputError(f"{path}: a map must be (x, y, z) or (echo, x, y, z), got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise OutputError(f"{path}: the map holds values that are not finite; nothing was written")
    if array.ndim == 4:
        array = np.moveaxis(array, 0, -1)
    header = _header(array.shape, placement, np.dtype(dtype))
    start = int(header["vox_offset"])
    buffer = np.zeros(start + array.size * np.dtype(dtype).itemsize, np.uint8)
    buffer[: len(header.binaryblock)] = np.frombuffer(header.binaryblock, np.uint8)
    stored = buffer[start:].view(dtype).reshape(array.shape, order="F")
    for j in range(array.shape[1]):  # one plane at a time keeps the transpose in cache
        stored[:, j] = array[:, j]
    if not path.name.endswith(".gz"):
        return [buffer.tobytes()]
    return compress(memoryview(buffer.data), threads or os.cpu_count() or 1)


def _header(shape: tuple[int, ...], placement: Placement, dtype: np.dtype) -> Any:
    header: Any = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms((*np.linalg.norm(placement.affine[:3, :3], axis=0), 1.0)[: len(shape)])
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(1, 0)
    header["descrip"] = PACKAGE.encode()
    header["magic"] = b"n+1"
    header["vox_offset"] = header.single_vox_offset
    if placement.qform_code:
        header.set_qform(placement.qform, placement.qform_code)
    if placement.sform_code:
        header.set_sform(placement.sform, placement.sform_code)
    return header


def _sidecar(kind: str, acquisition: Acquisition, record: Mapping[str, Any]) -> dict[str, Any]:
    scan, described = acquisition.scan, KINDS[kind]
    own = record.get(kind, {})
    fields: dict[str, Any] = {"Description": described.description}
    if described.units:
        fields["Units"] = described.units
    fields |= {
        "Sources": list(acquisition.sources),
        "GeneratedBy": [{"Name": PACKAGE, "Version": version(PACKAGE)}],
        "EchoTime": list(scan.echo_times_s),
        "MagneticFieldStrength": scan.b0_tesla,
        "MagneticFieldStrengthSource": acquisition.b0_source,
        "B0Direction": list(scan.grid.b0_dir),
        "Manufacturer": acquisition.manufacturer,
        "PhaseScaling": acquisition.phase_scaling,
        "PhaseSign": acquisition.phase_sign,
        "PhaseSignReason": acquisition.phase_sign_reason,
    }
    if acquisition.choice:
        fields["SeriesChoice"] = acquisition.choice
    fields |= {name: value for name, value in record.items() if name not in KINDS} | dict(own)
    fields["Warnings"] = [*acquisition.warnings, *fields.get("Warnings", [])]
    return fields


def _dataset_description(folder: Path, acquisition: Acquisition) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "Name": "Quantitative susceptibility maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PACKAGE, "Version": version(PACKAGE)}],
    }
    if acquisition.dataset_root is not None:
        relative = os.path.relpath(acquisition.dataset_root, folder.absolute())
        fields["DatasetLinks"] = {"raw": Path(relative).as_posix()}
    return fields


def _dataset_type(described: Path) -> str:
    try:
        return str(json.loads(described.read_text(encoding="utf-8")).get("DatasetType", "raw"))
    except (OSError, ValueError, AttributeError):
        return "raw"


def json_bytes(fields: Mapping[str, Any]) -> bytes:
    """A sidecar's text; numpy values become plain ones. Raises ValueError for NaN, which JSON does not have."""
    return (json.dumps(fields, indent=2, ensure_ascii=False, default=_plain, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot stand in a sidecar")
