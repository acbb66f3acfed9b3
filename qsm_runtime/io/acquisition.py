"""A scan with what its files said: where its maps belong, and how its phase was understood."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from qsm_runtime.scan import Scan


@dataclass(frozen=True)
class Placement:
    """Geometry of the input's header that outputs keep: affines (4x4, mm) and codes (0: not stated)."""

    affine: np.ndarray
    sform: np.ndarray
    sform_code: int
    qform: np.ndarray
    qform_code: int


class SourceObject(NamedTuple):
    """A DICOM object that a map is made of. frames: numbers of those used, from 1; empty where it has but one."""

    series_uid: str
    sop_class: str
    sop_uid: str
    frames: tuple[int, ...]


class DicomTemplate(Protocol):
    """What a derived DICOM series takes over from the images it is made of."""

    @property
    def headers(self) -> tuple[Any, ...]:
        """pydicom Datasets without samples, one for each plane, in the order of `planes`."""

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """SOP class and instance UID of every object used."""

    @property
    def plane_sources(self) -> tuple[tuple[SourceObject, ...], ...]:
        """For each plane the objects that show it, of every echo and part."""

    def planes(self, array: np.ndarray) -> np.ndarray:
        """A view (plane, row, column) of a map (x, y, z)."""


@dataclass(frozen=True)
class Acquisition:
    """A validated scan and the record of how it was read.

    mask: the user's mask, bool (x, y, z), or None. name: stem of output names, such as sub-1_ses-2_run-1.
    folder: where a derivative dataset keeps its maps, such as sub-1/ses-2/anat; empty for plain files.
    sources: the files read, for a BIDS dataset as `bids:raw:` URIs; source_paths: the same as paths.
    phase_scaling, phase_sign_reason and b0_source say what was decided and why.
    phase_sign: +1, or -1 where the stored phase was negated.
    echo_difference: the one phase is that of the second echo minus the first's.
    dicom: headers of the images, where the scan came as DICOM. choice: why these images and no others, empty else.
    """

    scan: Scan
    placement: Placement
    name: str
    sources: tuple[str, ...]
    phase_scaling: str
    phase_sign: int
    phase_sign_reason: str
    b0_source: str
    folder: str = ""
    manufacturer: str = ""
    mask: np.ndarray | None = None
    echo_difference: bool = False
    source_paths: tuple[Path, ...] = ()
    dataset_root: Path | None = None
    warnings: list[str] = field(default_factory=list)
    dicom: DicomTemplate | None = None
    choice: str = ""

    @property
    def affine(self) -> np.ndarray:
        return self.placement.affine
