"""Received images to planes: what part each is, which echo of which scan, and where it lies.

MRD gives the centre of what an image covers, in LPS and mm. Rows and columns of its pixels lie along ImageRowDir and
ImageColumnDir of the Meta attributes, or, where those are absent, along read_dir and phase_dir. Only differences of
positions matter here: what goes back carries the header that came.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qsm_runtime.errors import MetadataError
from qsm_runtime.io.dcm2niix import NO_ECHO_IMAGES, PARTS_OF_IMAGE_TYPE
from qsm_runtime.io.dicom.geometry import UNIT_TOLERANCE
from qsm_runtime.io.mrd.described import Meta
from qsm_runtime.io.mrd.protocol import Image

PARTS = {1: "magnitude", 2: "phase", 3: "real", 4: "imaginary", 5: "complex"}
RGB = 6
PART_NAMES = {"mag": "magnitude", "phase": "phase", "real": "real", "imag": "imaginary"}
TYPE_ATTRIBUTES = ("ImageType", "DicomImageType", "ImageTypeValue3", "ImageTypeValue4", "ComplexImageComponent")
NAME_ATTRIBUTES = ("SeriesDescription", "SequenceDescription")
COMPUTED = (NO_ECHO_IMAGES - {"DERIVED"}) | {"SWI", "MIP", "MNIP", "MINIP", "MPR", "ADC", "T2_STAR MAP", "QSM", "MEAN"}
SAME_STEP = 0.02  # share by which two statements of one slice spacing may differ
THINNEST = 0.1  # of a pixel's edge: a slice thinner than that is none
Triple = tuple[float, float, float]


class Form(NamedTuple):
    """Matrix of a plane, and "3D" or "2D"."""

    rows: int
    columns: int
    acquisition_type: str


@dataclass(frozen=True, eq=False)
class Received:
    """An image in the order of its arrival, with its Meta attributes."""

    number: int
    image: Image
    meta: Meta

    @property
    def words(self) -> frozenset[str]:
        """Of the image type, in capitals."""
        texts = [text for name in TYPE_ATTRIBUTES for text in self.meta.get(name, [])]
        return frozenset(word.strip().upper() for text in texts for word in text.split("\\"))

    @property
    def series(self) -> int:
        return int(self.image.header["image_series_index"])

    @property
    def series_name(self) -> str:
        names = [name for key in NAME_ATTRIBUTES for name in self.meta.get(key, []) if name]
        return names[0] if names else f"series {self.series}"


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice: centre of its first pixel, directions of a row and of a column (LPS, mm), spacing of rows and of
    columns. part: "magnitude", ... or "unset". scan: set, repetition, average and phase counters."""

    source: Received
    depth: int
    part: str
    echo: int
    scan: tuple[int, int, int, int]
    position: Triple
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]
    slice_mm: float
    instance: Form

    @property
    def samples(self) -> np.ndarray:
        """(row, column), as received."""
        return self.source.image.pixels[0, self.depth]

    def __str__(self) -> str:
        return f"{self.part} echo {self.echo + 1} slice {int(self.source.image.header['slice']) + self.depth + 1}"


def why_not(received: Received) -> str:
    """Why an image cannot be one of the echoes, empty where it can."""
    header = received.image.header
    if int(header["image_type"]) == RGB:
        return "colour images"
    if int(header["channels"]) != 1:
        return f"{header['channels']} channels in one image; combine the coils"
    if int(header["image_type"]) not in (0, *PARTS):
        return f"image type {header['image_type']}"
    computed = received.words & COMPUTED
    return f"{', '.join(sorted(computed))} images" if computed else ""


def planes_of(received: Received, volumetric: bool, slice_step_mm: float | None) -> list[Plane]:
    """The planes of an image. volumetric and slice_step_mm: as the header of the measurement has them.

    Raises MetadataError where its geometry is none.
    """
    header = received.image.header
    columns, rows, depth = (int(n) for n in header["matrix_size"])
    row, column = _directions(received)
    width, height, extent = (float(v) for v in header["field_of_view"])
    centre = np.array(header["position"], float)
    if not (min(width, height) > 0 and extent >= 0 and np.isfinite([width, height, extent, *centre]).all()):
        raise MetadataError(f"image {received.number + 1}: field of view or position is none")
    spacing = (height / rows, width / columns)
    step = _step(extent, depth, min(spacing), slice_step_mm)
    along = np.array(header["slice_dir"], float)
    if depth > 1 and not abs(np.linalg.norm(along) - 1) < UNIT_TOLERANCE:
        raise MetadataError(f"image {received.number + 1}: slice_dir is no unit vector")
    first = centre - row * spacing[1] * (columns - 1) / 2 - column * spacing[0] * (rows - 1) / 2
    kind = "3D" if volumetric or depth > 1 else "2D"
    scan = tuple(int(header[name]) for name in ("set", "repetition", "average", "phase"))
    common: dict[str, Any] = {
        "part": _part(received),
        "echo": int(header["contrast"]),
        "scan": scan,
        "orientation": (*row.tolist(), *column.tolist()),
        "spacing": spacing,
        "slice_mm": step,
        "instance": Form(rows, columns, kind),
    }
    planes = []
    for k in range(depth):
        place = first + along * step * (k - (depth - 1) / 2) if depth > 1 else first
        planes.append(Plane(received, k, position=tuple(place.tolist()), **common))
    return planes


def _part(received: Received) -> str:
    header = received.image.header
    if received.image.pixels.dtype.kind == "c":
        return "complex"
    stated = int(header["image_type"])
    if stated:
        return PARTS[stated]
    named = [PART_NAMES[part] for part, words in PARTS_OF_IMAGE_TYPE.items() if words & received.words]
    return named[0] if len(named) == 1 else "unset"


def _directions(received: Received) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along a row and along a column of the pixels."""
    header, meta = received.image.header, received.meta
    row, column = (_vector(meta.get(name, [])) for name in ("ImageRowDir", "ImageColumnDir"))
    if row is None or column is None:
        row, column = (np.array(header[name], float) for name in ("read_dir", "phase_dir"))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    unit = all(abs(n - 1) < UNIT_TOLERANCE for n in lengths)
    if not (unit and abs(row @ column) < UNIT_TOLERANCE):
        raise MetadataError(f"image {received.number + 1}: its directions are no pair of orthogonal unit vectors")
    return row / lengths[0], column / lengths[1]


def _vector(texts: list[str]) -> np.ndarray | None:
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return values if values.shape == (3,) and np.isfinite(values).all() else None


def _step(extent: float, depth: int, pixel_mm: float, stated_mm: float | None) -> float:
    """Distance of the slices of a 3-D image; field_of_view is its extent, or one partition's (Siemens)."""
    if depth == 1:
        return extent
    candidates = [extent / depth, extent]
    near = [c for c in candidates if stated_mm is not None and abs(c - stated_mm) <= SAME_STEP * stated_mm]
    if len(near) == 1:
        return near[0]
    thick = [c for c in candidates if c >= THINNEST * pixel_mm]
    if not thick:
        raise MetadataError(f"a 3-D image of {depth} slices with a field of view of {extent:g} mm across them")
    return thick[0]
