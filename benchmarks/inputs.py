"""Inputs with a known truth, prepared once and kept: simulated heads, and datasets that come with their truth."""

import hashlib
import json
import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import qsm_runtime.phantom
from qsm_runtime import io
from qsm_runtime.benching import inputs as benching
from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.phantom import simulate_head
from qsm_runtime.units import TWO_PI, rad_per_ppm

SIZES = {
    "small": benching.SIZES["small"],
    "medium": benching.SIZES["research"],
    "large": Grid((256, 256, 176), (0.8, 0.8, 1.0)),
}
OFFSET_SIGMA_MM = 6.0  # smoothing of what a cubic leaves of the phase offset


def grid_of(size: str) -> Grid:
    """A named size, or NX,NY,NZ@V[,V,V] in voxels and mm. Raises UsageError."""
    return benching.grid_of(size, SIZES)


def phantom(grid: Grid, **parameters: Any) -> Path:
    """The .npz of a simulated head, made once; `parameters` as in simulate_head."""
    sources = sorted(Path(qsm_runtime.phantom.__file__).parent.glob("*.py"))
    said = json.dumps([asdict(grid), parameters], sort_keys=True).encode()
    key = hashlib.sha256(said + b"".join(p.read_bytes() for p in (*sources, Path(__file__)))).hexdigest()[:16]
    path = benching.cache_folder() / f"head_{key}.npz"
    if not path.exists():
        head = simulate_head(grid, **parameters)
        scan, truth = head.scan, head.truth
        offset_rad = phase_offset(scan, truth.total_ppm, truth.mask)
        _save(path, scan, offset_rad, truth.total_ppm, truth.total_ppm, vars(truth))
    return path


def dataset(folder: Path) -> Path:
    """The .npz of a BIDS dataset of one scan with its truth in derivatives/truth. Raises InputError."""
    found = io.find_acquisitions(folder)
    if len(found) != 1:
        raise InputError(f"{folder}: one scan is needed, found {len(found)}")
    files = sorted((folder / "derivatives" / "truth").rglob("*.nii.gz"))
    stamps = [
        (str(p.resolve()), p.stat().st_mtime_ns) for p in [*files, *(q for s in found[0].files.values() for q in s)]
    ]
    key = hashlib.sha256(json.dumps(stamps).encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    path = benching.cache_folder() / f"data_{key}.npz"
    if not path.exists():

        def truth(*endings: str) -> np.ndarray | None:
            for ending in endings:
                for file in files:
                    if file.name == f"{found[0].name}_{ending}.nii.gz":
                        return io.read_map(file).array
            return None

        wanted = {
            "chi_ppm": truth("Chimap"),
            "mask": truth("mask"),
            "total_ppm": truth("fieldmap", "desc-total_fieldmap"),
            "carried_ppm": truth("desc-shimmed_fieldmap", "desc-total_fieldmap", "fieldmap"),
            "local_ppm": truth("fieldmap-local", "desc-local_fieldmap"),
        }
        lacking = [name for name, array in wanted.items() if array is None]
        if lacking:
            raise InputError(f"{folder}: derivatives/truth lacks {', '.join(lacking)}")
        scan, mask = found[0].read(phase_sign="+").scan, wanted["mask"] > 0  # type: ignore[operator]
        labels, r2star = truth("dseg"), truth("R2starmap")
        rest = {
            "chi_ppm": wanted["chi_ppm"],
            "local_ppm": wanted["local_ppm"],
            "mask": mask,
            "labels": None if labels is None else labels.astype(np.uint8),
            "r2star_hz": r2star,
        }
        carried = wanted["carried_ppm"]
        _save(path, scan, phase_offset(scan, carried, mask), wanted["total_ppm"], carried, rest)  # type: ignore[arg-type]
    return path


def _save(path: Path, scan: Any, offset_rad: np.ndarray, total_ppm: Any, carried_ppm: Any, truth: dict) -> None:
    arrays = {key: truth[key] for key in ("chi_ppm", "mask", "labels", "local_ppm", "r2star_hz")}
    arrays = {key: value for key, value in arrays.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(
        temporary,
        magnitude=scan.magnitude,
        phase_rad=scan.phase_rad,
        echo_times_s=np.array(scan.echo_times_s),
        b0_tesla=scan.b0_tesla,
        voxel_mm=np.array(scan.grid.voxel_mm),
        b0_dir=np.array(scan.grid.b0_dir),
        offset_rad=offset_rad,
        total_ppm=total_ppm,
        carried_ppm=carried_ppm,
        **arrays,
    )
    temporary.replace(path)


def wrap(phase_rad: np.ndarray) -> np.ndarray:
    return (phase_rad - TWO_PI * np.rint(phase_rad / TWO_PI)).astype(np.float32)


def phase_offset(scan: Any, field_ppm: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the phase has beside the field, common to all echoes: float32 rad, smooth, zero outside the mask.

    A cubic fitted to the differences of the residual phasor between neighbours, plus the smoothed rest.
    """
    z = np.zeros(scan.grid.shape, np.complex64)
    for echo, te in enumerate(scan.echo_times_s):
        rest = scan.phase_rad[echo] - np.float32(rad_per_ppm(scan.b0_tesla, te)) * field_ppm
        z += np.where(mask, scan.magnitude[echo] ** 2 * np.exp(1j * rest), 0)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in z.shape]
    powers = [p for p in np.ndindex(4, 4, 4) if 0 < sum(p) <= 3]

    def monomial(p: tuple[int, ...], where: list[np.ndarray]) -> np.ndarray:
        return np.multiply.outer(np.multiply.outer(where[0] ** p[0], where[1] ** p[1]), where[2] ** p[2])

    normal, right = np.zeros((len(powers),) * 2), np.zeros(len(powers))
    for axis in range(3):
        ahead, here = (tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(1, None), slice(-1)))
        step = z[ahead] * z[here].conj()
        used = np.abs(step) > 0
        rows = [monomial(p, axes) for p in powers]
        terms = np.stack([(m[ahead] - m[here])[used] for m in rows], 1)
        weighted = terms * np.abs(step[used])[:, None]
        normal += weighted.T.astype(float) @ terms
        right += weighted.T.astype(float) @ np.angle(step[used])
    coefficients = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
    trend = sum(c * monomial(p, axes) for c, p in zip(coefficients, powers, strict=True)).astype(np.float32)
    rest = z * np.exp(-1j * trend)
    sigma = [OFFSET_SIGMA_MM / v for v in scan.grid.voxel_mm]
    middle = np.angle(rest.sum())
    rest *= np.exp(-1j * middle)
    smooth = ndimage.gaussian_filter(rest.real, sigma) + 1j * ndimage.gaussian_filter(rest.imag, sigma)
    return np.where(mask, trend + middle + np.angle(smooth), 0).astype(np.float32)


class Inputs:
    """A prepared input; each array is read when first asked for, so that a stage's memory is its own."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path)
        self.voxel_mm, self.b0_dir = (tuple(float(v) for v in self._file[k]) for k in ("voxel_mm", "b0_dir"))
        self.b0_tesla = float(self._file["b0_tesla"])
        self.echo_times_s = tuple(float(t) for t in self._file["echo_times_s"])
        self.mask = self._file["mask"]
        self.grid = Grid(self.mask.shape, self.voxel_mm, self.b0_dir)  # type: ignore[arg-type]

    def __getitem__(self, key: str) -> np.ndarray:
        array: np.ndarray = self._file[key]
        return array

    def get(self, key: str) -> np.ndarray | None:
        """An array that the input may lack."""
        return self[key] if key in self._file else None

    @cached_property
    def labels(self) -> np.ndarray | None:
        return self.get("labels")

    def rad_per_ppm(self, echo: int) -> np.float32:
        return np.float32(rad_per_ppm(self.b0_tesla, self.echo_times_s[echo]))

    def wrapped_rad(self, echoes: list[int]) -> np.ndarray:
        """Phase less its offset, wrapped, float32 (echo, x, y, z)."""
        offset = self["offset_rad"]
        return np.stack([wrap(p - offset) for p in self["phase_rad"][echoes]])

    def unwrapped_rad(self) -> np.ndarray:
        """Phase less its offset, on the turn nearest the truth."""
        carried, out = self["carried_ppm"], self.wrapped_rad(list(range(len(self.echo_times_s))))
        for echo, phase in enumerate(out):
            true = self.rad_per_ppm(echo) * carried
            out[echo] = np.where(self.mask, true + wrap(phase - true), 0)
        return out
