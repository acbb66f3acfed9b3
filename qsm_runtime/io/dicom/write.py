"""Maps as DICOM series: MR Image objects in the place of the planes they are made of, and files of them.

    series = derived_series(acquisition, {"chi": result.chi_ppm}, result.record, warnings=result.warnings)
    write_series(folder, series)                # or send series[0].datasets over the network

The scale of each kind of map is the same for every subject: see quantities.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from qsm_runtime.errors import OutputError, UsageError
from qsm_runtime.io.acquisition import Acquisition, DicomTemplate
from qsm_runtime.io.atomic import check_writable, said
from qsm_runtime.io.dicom.carried import announce_character_set
from qsm_runtime.io.dicom.derived import made, plane_header, series_header, values
from qsm_runtime.io.dicom.quantities import QUANTITIES, Quantity
from qsm_runtime.io.dicom.text_rules import clipped as cut
from qsm_runtime.io.output import KINDS

NO_TEMPLATE = (
    "the images did not come as DICOM, so no patient, study or place is known to put into a DICOM series; "
    "give the DICOM folder as input, or write NIfTI"
)


@dataclass(frozen=True)
class DerivedSeries:
    """One map as MR Image objects, one a plane, complete to be sent or saved. clipped: voxels beyond the range."""

    kind: str
    datasets: tuple[Dataset, ...] = field(repr=False)
    clipped: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        return str(self.datasets[0].SeriesDescription)


def derived_series(
    acquisition: Acquisition,
    maps: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    *,
    warnings: Sequence[str] = (),
    late: bool = False,
) -> list[DerivedSeries]:
    """A series for each map, in the order given; all of one answer share study, frame of reference and moment.

    maps      by kind (see QUANTITIES): (x, y, z) on the scan's grid
    record    of the pipeline's Result
    warnings  of the Result; with the acquisition's they stand in ImageComments
    late      a cheaper recipe answered because of a deadline: series description and comments say so

    Raises UsageError where the scan did not come as DICOM or a kind is unknown, OutputError where a map is not finite.
    """
    template = template_of(acquisition)
    check_kinds(maps)
    how = made(record, [*acquisition.warnings, *warnings], late)
    series = []
    for index, (kind, array) in enumerate(maps.items()):
        acquisition.scan.grid.check(array, kind)
        quantity = QUANTITIES[kind]
        shared = series_header(template, quantity, index, how, acquisition.scan.b0_tesla)
        values(shared, quantity, quantity.window_of(array), KINDS[kind].description)
        series.append(_series(kind, template, shared, quantity, template.planes(array)))
    return series


def template_of(acquisition: Acquisition) -> DicomTemplate:
    """The template of a scan that came as DICOM. Raises UsageError with the remedy for any other."""
    if acquisition.dicom is None:
        raise UsageError(f"{acquisition.name}: {NO_TEMPLATE}")
    return acquisition.dicom


def check_kinds(kinds: Iterable[str]) -> None:
    """Raise UsageError where a kind of map has no form in DICOM."""
    for kind in kinds:
        if kind not in QUANTITIES:
            raise UsageError(f"map {kind!r} is none of {', '.join(QUANTITIES)}")


def check_series(path: Path | str, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Raise OutputError now where write_series could not or must not write. inputs: files read."""
    path = Path(path)
    if any(path.resolve() in source.resolve().parents for source in inputs):
        raise OutputError(f"{path} holds an input and is never overwritten; choose another output folder")
    if path.exists():
        if not overwrite:
            raise OutputError(f"{path} exists; choose another output folder or allow it with --overwrite")
        if not path.is_dir() or not all(_ours(entry, path) for entry in path.rglob("*")):
            raise OutputError(f"{path} holds other files than a series of maps; choose another output folder")
    else:
        check_writable([path], (), overwrite=False)


def write_series(
    path: Path | str, series: Sequence[DerivedSeries], *, inputs: Iterable[Path] = (), overwrite: bool = False
) -> dict[str, Path]:
    """Write PATH/KIND/0001.dcm and so on, everything or nothing: the folder appears under its name once it is whole.

    Returns the folder of each kind. Raises OutputError; an existing folder is replaced only with overwrite.
    """
    path = Path(path)
    check_series(path, inputs=inputs, overwrite=overwrite)
    staged, old = (path.with_name(f".{path.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        for one in series:
            _write_folder(staged / one.kind, one.datasets)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(staged, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    except OSError as error:
        raise OutputError(said(path, error)) from error
    finally:
        for left in (staged, old):
            shutil.rmtree(left, ignore_errors=True)
    return {one.kind: path / one.kind for one in series}


def _series(
    kind: str, template: DicomTemplate, shared: Dataset, quantity: Quantity, planes: np.ndarray
) -> DerivedSeries:
    headers = template.headers
    announce_character_set(shared, headers[0])
    stored, clipped = [], 0
    for plane in planes:
        samples, beyond = quantity.stored(plane)
        stored.append(samples)
        clipped += beyond
    warnings: tuple[str, ...] = ()
    if clipped:
        warnings = (f"{kind}: {clipped} voxels lie beyond {quantity.range_text} and are clipped in DICOM",)
        shared.ImageComments = cut(f"{shared.ImageComments} WARNING: {warnings[0]}", "LT")
    datasets = []
    for number, (header, objects, samples) in enumerate(zip(headers, template.plane_sources, stored, strict=True), 1):
        dataset = plane_header(shared, header, objects, number)
        dataset.PixelData = samples.tobytes()
        datasets.append(dataset)
    return DerivedSeries(kind, tuple(datasets), clipped, warnings)


def _write_folder(folder: Path, datasets: Sequence[Dataset]) -> None:
    folder.mkdir(parents=True)
    paths = [folder / f"{number:04d}.dcm" for number in range(1, len(datasets) + 1)]
    for path, dataset in zip(paths, datasets, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    for path in paths:  # all at once: the disk may order them
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def _ours(entry: Path, root: Path) -> bool:
    """Whether write_series could have made a path below `root`."""
    parts = entry.relative_to(root).parts
    return parts[0] in QUANTITIES and (len(parts) == 1 or (len(parts) == 2 and entry.suffix == ".dcm"))
