"""One NIfTI file as stored: its samples, scale, geometry and sidecar. Reading is the only thing done here.

A file is read and inflated in one call each, outside the interpreter lock, so that several load at once; samples
stay in their stored type until their scale is known, because scaling through float64 costs time and memory.
"""

import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from qsm_runtime.errors import InputError, MetadataError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Placement
from qsm_runtime.io.sidecar import read_sidecar

SUFFIXES = (".nii.gz", ".nii")
AFFINE_TOLERANCE_VOXELS = 0.05  # largest displacement of a corner between two images of one grid
B0_TOLERANCE_DEGREES = 0.5  # sform and qform that turn B0 by less agree
SCANNER_CODE = 1  # NIFTI_XFORM_SCANNER_ANAT: world axes are the scanner's, so B0 is along world z
LENGTH_UNITS = {1: "meter", 3: "micron"}  # codes of xyzt_units that are not mm
TEMPLATE_CODES = (3, 4)  # Talairach and MNI: the head was turned into a template's frame


@dataclass(frozen=True)
class Image:
    """A file's samples as stored, (x, y, z, n), with slope and intercept yet to be applied."""

    path: Path
    stored: np.ndarray
    slope: float
    intercept: float
    header: Any
    affine: np.ndarray
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return (int(self.stored.shape[0]), int(self.stored.shape[1]), int(self.stored.shape[2]))

    @property
    def n_volumes(self) -> int:
        return int(self.stored.shape[3])

    def volume(self, index: int, slope: float, intercept: float) -> np.ndarray:
        """Volume `index` as C-ordered float32 (x, y, z): stored * slope + intercept."""
        stored = self.stored[..., index]
        out = np.empty(stored.shape, np.float32)
        for j in range(stored.shape[1]):  # one plane at a time keeps the transpose in cache
            np.copyto(out[:, j], stored[:, j], casting="same_kind" if stored.dtype.kind == "f" else "unsafe")
        if slope != 1.0:
            out *= np.float32(slope)
        if intercept != 0.0:
            out += np.float32(intercept)
        return out


def stem_of(path: Path) -> str:
    """File name without .nii or .nii.gz; raises InputError for any other ending."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    raise InputError(f"{path}: not a .nii or .nii.gz file; convert the images to single-file NIfTI")


def load(path: Path | str) -> Image:
    """Read one NIfTI-1 or NIfTI-2 file. Raises InputError naming the file where it cannot be read whole."""
    path = Path(path)
    stem_of(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if data[:2] == b"\x1f\x8b":
        data = _inflate(data, path)
    header, affine = _header(data, path)
    stored = _samples(data, header, path)
    slope, intercept = header.get_slope_inter()
    return Image(
        path,
        stored,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        header,
        np.asarray(affine, float),
        read_sidecar(path),
    )


def load_all(paths: Sequence[Path | str], threads: int) -> list[Image]:
    """Read several files at once, in the order given."""
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(paths)))) as pool:
        return list(pool.map(load, paths))


def _inflate(data: bytes, path: Path) -> bytes:
    """All members of a gzip file; raises InputError where it is cut short or damaged."""
    parts = []
    try:
        while data:
            stream = zlib.decompressobj(wbits=31)
            parts.append(stream.decompress(data))
            if not stream.eof:
                raise InputError(f"{path}: the gzip stream ends early (cut short while copying?); copy it again")
            data = stream.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise InputError(f"{path}: damaged gzip file ({error}); copy or convert it again") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _header(data: bytes, path: Path) -> tuple[Any, np.ndarray]:
    kind: Any = nib.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
    try:
        header = kind.header_class(data[: kind.header_class.sizeof_hdr], check=True)
        return header, header.get_best_affine()
    except (nib.spatialimages.HeaderDataError, nib.spatialimages.ImageDataError, ValueError) as error:
        raise InputError(f"{path}: not a NIfTI file ({error})") from error
    except nib.wrapstruct.WrapStructError as error:
        raise InputError(f"{path}: not a NIfTI file ({error})") from error


def _samples(data: bytes, header: Any, path: Path) -> np.ndarray:
    """Samples as stored, (x, y, z, n) in Fortran order."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) > 4:  # singleton axes before the echoes, as ITK writes them
        shape = shape[:3] + tuple(n for n in shape[3:] if n != 1)
    if len(shape) < 3 or len(shape) > 4:
        raise ShapeError(f"{path}: {len(shape)}-D image of shape {shape}; 3-D or 4-D (echoes last) is needed")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iufc":
        raise InputError(f"{path}: samples of type {dtype} are no image values")
    offset, count = int(header.get_data_offset()), math.prod(shape)
    magic = bytes(header["magic"])
    if magic[:2] == b"ni":
        raise InputError(f"{path}: header of a .hdr/.img pair; convert it to single-file NIfTI")
    if min(shape) < 1:
        raise ShapeError(f"{path}: image of shape {shape} holds nothing")
    offset = max(offset, int(header.single_vox_offset))
    if len(data) < offset + count * dtype.itemsize:
        missing = offset + count * dtype.itemsize - len(data)
        raise InputError(f"{path}: cut short, {missing} bytes are missing; copy it again")
    stored = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F")
    return stored if stored.ndim == 4 else stored[..., None]


def check_same_grid(images: Sequence[Image]) -> None:
    """Raise ShapeError or InputError where an image differs in shape or place from the first."""
    first = images[0]
    for image in images:
        if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine) < 4:
            raise InputError(f"{image.name}: the affine is singular; write a valid sform or qform")
    for image in images[1:]:
        if image.shape != first.shape:
            raise ShapeError(f"{image.name} has shape {image.shape}, {first.name} has {first.shape}")
        shift = displacement_voxels(image.affine, first.affine, first.shape)
        if not shift <= AFFINE_TOLERANCE_VOXELS:
            raise InputError(
                f"{image.name} lies {shift:.3g} voxels off {first.name} (their affines differ); "
                "resample it to the same grid or correct its header"
            )


def displacement_voxels(affine: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Largest distance between the places two affines give a corner of the volume, in voxels of `other`."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], float)
    smallest = float(np.linalg.norm(other[:3, :3], axis=0).min())
    return float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max() / smallest)


def scanner_affine(image: Image) -> tuple[np.ndarray, list[str]]:
    """The affine whose world axes are the scanner's, and warnings; raises MetadataError where none is stated.

    The sform may place the head in a template (codes 3, 4) while the qform keeps the scanner's axes (code 1):
    B0 must come from the latter.
    """
    header = image.header
    affines = {
        "sform": (int(header["sform_code"]), header.get_sform),
        "qform": (int(header["qform_code"]), header.get_qform),
    }
    stated = {name: (code, get()) for name, (code, get) in affines.items() if code > 0}
    if not stated:
        raise MetadataError(
            f"{image.name}: the header states no orientation (sform and qform codes are 0), so the direction of B0 "
            "is unknown; give it in array axes, e.g. --b0-dir 0,0,1"
        )
    name = min(stated, key=lambda n: (stated[n][0] != SCANNER_CODE, stated[n][0] in TEMPLATE_CODES, n == "qform"))
    code, affine = stated[name]
    warnings = []
    if code in TEMPLATE_CODES:
        warnings.append(
            f"{image.name}: its affine places the head in a template (code {code}); B0 is taken along the template's "
            "z axis, which is wrong if the head was turned: give --b0-dir then"
        )
    if len(stated) == 2:
        z = [a[2, :3] / np.linalg.norm(a[:3, :3], axis=0) for _, a in stated.values()]
        turn = float(np.degrees(np.arccos(np.clip(z[0] @ z[1] / np.linalg.norm(z[0]) / np.linalg.norm(z[1]), -1, 1))))
        if turn > B0_TOLERANCE_DEGREES:
            warnings.append(
                f"{image.name}: sform and qform turn B0 by {turn:.1f} degrees; the {name} (code {code}) is used"
            )
    return np.asarray(affine, float), warnings


def grid_of(image: Image, b0_dir: Sequence[float] | None, warnings: list[str]) -> Grid:
    """Grid of an image with B0 from its header, or as given in array axes; adds to `warnings`."""
    unit = LENGTH_UNITS.get(int(image.header["xyzt_units"]) & 7)
    if unit is not None:
        raise MetadataError(f"{image.name}: voxel sizes in {unit}; write them in mm")
    if b0_dir is None:
        affine, said = scanner_affine(image)
        warnings += said
        return Grid.from_affine(image.shape, affine, image.name)
    grid = Grid.from_affine(image.shape, image.affine, image.name)
    if len(b0_dir) != 3:
        raise UsageError(f"the direction of B0 needs three numbers in array axes, got {tuple(b0_dir)}")
    return Grid(image.shape, grid.voxel_mm, (float(b0_dir[0]), float(b0_dir[1]), float(b0_dir[2])))


def placement_of(image: Image) -> Placement:
    """What outputs keep of an image's header."""
    header = image.header
    return Placement(
        image.affine,
        header.get_sform() if int(header["sform_code"]) else image.affine,
        int(header["sform_code"]),
        header.get_qform() if int(header["qform_code"]) else image.affine,
        int(header["qform_code"]),
    )
