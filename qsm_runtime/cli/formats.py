"""The file formats of a run's maps: NIfTI, DICOM series, Parametric Map, or several of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import io, stages
from qsm_runtime.errors import UsageError
from qsm_runtime.io.atomic import check_writable

FORMATS = ("nifti", "dicom", "parametric-map")


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of `--format`, comma-separated. Raises UsageError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise UsageError(stages.unknown("format", name, FORMATS))
    if not names:
        raise UsageError(f"--format takes {', '.join(FORMATS)}, or several separated by commas")
    if "parametric-map" in names:
        import qsm_runtime.io.dicom.parametric  # noqa: F401  whether its package is installed is said before the work
    return tuple(name for name in FORMATS if name in names)


def check_dicom(
    formats: Sequence[str], folder: Path, acquisition: io.Acquisition, kinds: Sequence[str], *, overwrite: bool
) -> None:
    """Raise, before the reconstruction, what writing in DICOM would raise after it."""
    if not set(formats) & {"dicom", "parametric-map"}:
        return
    from qsm_runtime.io.dicom.write import check_kinds, check_series, template_of

    template_of(acquisition)
    check_kinds(kinds)
    if "dicom" in formats:
        check_series(_series_path(folder, acquisition), inputs=acquisition.source_paths, overwrite=overwrite)
    if "parametric-map" in formats:
        check_writable(_map_paths(folder, acquisition, kinds).values(), acquisition.source_paths, overwrite)


def write_dicom(
    formats: Sequence[str],
    folder: Path,
    acquisition: io.Acquisition,
    maps: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    warnings: Sequence[str],
    *,
    overwrite: bool,
) -> tuple[dict[str, Path], list[str]]:
    """Write the maps in the DICOM formats asked for. Returns what was written by kind and format, and warnings."""
    outputs: dict[str, Path] = {}
    said: list[str] = []
    if "dicom" in formats:
        from qsm_runtime.io.dicom.write import derived_series, write_series

        series = derived_series(acquisition, maps, record, warnings=warnings)
        path = _series_path(folder, acquisition)
        written = write_series(path, series, inputs=acquisition.source_paths, overwrite=overwrite)
        outputs |= {f"{kind}_dicom": where for kind, where in written.items()}
        said += [text for one in series for text in one.warnings]
    if "parametric-map" in formats:
        from qsm_runtime.io.dicom.parametric import encoded, parametric_maps

        paths = _map_paths(folder, acquisition, list(maps))
        objects = parametric_maps(acquisition, maps, record, warnings=warnings)
        files = {paths[kind]: [encoded(dataset)] for kind, dataset in objects.items()}
        io.write_files(files, inputs=acquisition.source_paths, overwrite=overwrite)
        outputs |= {f"{kind}_parametric_map": path for kind, path in paths.items()}
    return outputs, said


def _series_path(folder: Path, acquisition: io.Acquisition) -> Path:
    return folder / acquisition.folder / f"{acquisition.name}_dicom"


def _map_paths(folder: Path, acquisition: io.Acquisition, kinds: Sequence[str]) -> dict[str, Path]:
    place = folder / acquisition.folder
    return {kind: place / f"{acquisition.name}_{kind}_parametric-map.dcm" for kind in kinds}
