"""What `qsm orient` makes of aligned fields, and its files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import reference as references
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Placement
from qsm_runtime.io.atomic import write_files
from qsm_runtime.io.output import PACKAGE, encode, json_bytes, sidecar_path
from qsm_runtime.orientation import cosmos, glta, sti
from qsm_runtime.orientation.geometry import PAIRS
from qsm_runtime.orientation.sti import decompose

COMPONENTS = ["xyz"[a] + "xyz"[b] for a, b in PAIRS]


@dataclass(frozen=True)
class Kind:
    """Ending of a map's file name, its unit, and what it is."""

    ending: str
    units: str
    description: str


CHI = Kind("Chimap", "ppm", "Magnetic susceptibility (SI), paramagnetic positive")
MEAN = Kind("Chimap", "ppm", "Mean magnetic susceptibility: a third of the tensor's trace (SI), paramagnetic positive")
TENSOR = Kind("desc-tensor_Chimap", "ppm", "Susceptibility tensor (SI), six components along the fourth axis")
ANISOTROPY = Kind(
    "desc-anisotropy_Chimap", "ppm", "Susceptibility anisotropy: largest eigenvalue less the mean of the others"
)
PRINCIPAL = Kind(
    "desc-principal_eigenvector", "", "Unit vector of the largest eigenvalue, x y z along the fourth axis, up to sign"
)
BULK = Kind("Chimap", "ppm", "Bulk magnetic susceptibility (SI), paramagnetic positive")
LORENTZ = Kind("desc-lorentz_Chimap", "ppm", "Lorentzian tensor of local anisotropy, six components along the 4th axis")
MASK = Kind("desc-qsm_mask", "", "Voxels that all orientations share, in which the maps are valid")
KINDS = {
    "cosmos": {"chi": CHI, "mask": MASK},
    "sti": {"chi": MEAN, "anisotropy": ANISOTROPY, "tensor": TENSOR, "eigenvector": PRINCIPAL, "mask": MASK},
    "glta": {"chi": BULK, "lorentz": LORENTZ, "mask": MASK},
}


def paths(folder: Path, name: str, method: str) -> dict[str, Path]:
    """Where each map goes."""
    return {key: folder / f"{name}_{kind.ending}.nii.gz" for key, kind in KINDS[method].items()}


def solve(
    method: str,
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    b0_dirs: np.ndarray,
    progress: Callable[[float], None],
) -> dict[str, np.ndarray]:
    """Maps by key, as in KINDS. Raises what the methods raise."""
    if method == "cosmos":
        return {"chi": cosmos(local_ppm, mask, grid, b0_dirs=b0_dirs, progress=progress), "mask": mask}
    if method == "glta":
        bulk = glta(local_ppm, mask, grid, b0_dirs=b0_dirs)
        return {"chi": bulk.chi_ppm, "lorentz": bulk.lorentz_ppm, "mask": mask}
    tensor = sti(local_ppm, mask, grid, b0_dirs=b0_dirs, progress=progress)
    mean, anisotropy, direction = decompose(tensor, mask)
    return {"chi": mean, "anisotropy": anisotropy, "tensor": tensor, "eigenvector": direction, "mask": mask}


def refer(maps: dict[str, np.ndarray], grid: Grid, method: str, region: np.ndarray | None) -> dict[str, Any]:
    """Set the reference region's mean susceptibility to zero, in the tensor's diagonal too; fields for sidecars."""
    extra = {"region": region} if method == "region" else {}
    chi_ppm, value_ppm, voxels = references.METHODS[method](maps["chi"], maps["mask"], grid, **extra)
    maps["chi"] = chi_ppm
    if "tensor" in maps:
        for c, (a, b) in enumerate(PAIRS):
            if a == b:
                maps["tensor"][c][maps["mask"]] -= np.float32(value_ppm)
    return {"ReferenceRegion": method, "ReferenceValue": float(value_ppm), "ReferenceVoxels": int(voxels)}


def write(
    outputs: Mapping[str, Path],
    method: str,
    maps: Mapping[str, np.ndarray],
    placement: Placement,
    fields: Mapping[str, Any],
    *,
    inputs: Sequence[Path],
    overwrite: bool,
    threads: int | None,
) -> None:
    """Every map with its sidecar, all or none. Raises OutputError."""
    files: dict[Path, Sequence[bytes]] = {}
    for key, path in outputs.items():
        kind, array = KINDS[method][key], maps[key]
        own: dict[str, Any] = {"Description": kind.description}
        if kind.units:
            own["Units"] = kind.units
        if array.ndim == 4:
            own["Components"] = COMPONENTS if len(array) == len(PAIRS) else ["x", "y", "z"]
            own["Frame"] = "array axes of this file"
        own["GeneratedBy"] = [{"Name": PACKAGE, "Version": version(PACKAGE)}]
        files[path] = encode(array, placement, path, "|u1" if array.dtype == bool else "<f4", threads)
        files[sidecar_path(path)] = [json_bytes(own | dict(fields))]
    write_files(files, inputs=inputs, overwrite=overwrite)
