"""JSON sidecars of BIDS and dcm2niix: reading with inheritance, and the values a scan needs from them."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsm_runtime.errors import InputError, MetadataError
from qsm_runtime.units import b0_from_imaging_frequency

B0_AGREEMENT = 0.05  # nominal and actual field strength differ by less (Siemens "3 T" is 2.89 T)
FLAG_AGREEMENT = 0.005  # a flag that differs from the sidecar by more is reported
IMAGE_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def entities_of(name: str) -> tuple[dict[str, str], str]:
    """Entities and suffix of a BIDS file name: 'sub-1_echo-2_MEGRE.json' -> ({'sub': '1', 'echo': '2'}, 'MEGRE')."""
    *pairs, suffix = name.split(".")[0].split("_")
    return dict(pair.split("-", 1) for pair in pairs if "-" in pair), suffix


def dataset_root(path: Path) -> Path | None:
    """The nearest folder above `path` that holds dataset_description.json."""
    return next((p for p in path.absolute().parents if (p / "dataset_description.json").is_file()), None)


def read_sidecar(path: Path) -> dict[str, Any]:
    """Fields that hold for the image at `path`: its own sidecar over those inherited in a BIDS dataset.

    A JSON file higher up applies where its suffix is the image's and its entities are all among the image's;
    a nearer folder, then a name with more entities, overrides.
    """
    own = path.with_name(IMAGE_ENDING.sub("", path.name) + ".json")
    fields: dict[str, Any] = {}
    root = dataset_root(path) if path.name.startswith("sub-") else None
    if root is not None:
        folders = [p for p in reversed(path.absolute().parents) if p == root or root in p.parents]
        for folder in folders:
            for found in _applicable(folder, path):
                if found.name != own.name:
                    fields.update(_read_json(found))
    if own.is_file():
        fields.update(_read_json(own))
    return fields


def _applicable(folder: Path, image: Path) -> list[Path]:
    entities, suffix = entities_of(image.name)
    found = []
    for path in folder.glob(f"*{suffix}.json"):
        others, other_suffix = entities_of(path.name)
        if other_suffix == suffix and others.items() <= entities.items():
            found.append((len(others), path.name, path))
    return [path for _, _, path in sorted(found)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON sidecar ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: a sidecar must be a JSON object")
    return fields


def number(meta: dict[str, Any], field: str, source: str) -> float | None:
    """A finite number from a sidecar, None where absent."""
    value = meta.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MetadataError(f"{source}: {field} must be a number in its sidecar, got {value!r}")
    return float(value)


def agreed_number(metas: Sequence[tuple[str, dict[str, Any]]], field: str, tolerance: float) -> float | None:
    """The one value of `field` in all sidecars that have it; raises MetadataError where they disagree."""
    values = [(source, v) for source, meta in metas if (v := number(meta, field, source)) is not None]
    if not values:
        return None
    first_source, first = values[0]
    for source, value in values:
        if abs(value - first) > tolerance * abs(first):
            raise MetadataError(f"{field} is {first:g} for {first_source} but {value:g} for {source}: not one scan?")
    return first


def agreed_text(metas: Sequence[tuple[str, dict[str, Any]]], field: str) -> str:
    """The one text of `field` in all sidecars that have it, empty where none has; raises MetadataError."""
    values = {str(meta[field]).strip(): source for source, meta in metas if meta.get(field)}
    if len({v.lower() for v in values}) > 1:
        said = ", ".join(f"{value} ({source})" for value, source in values.items())
        raise MetadataError(f"{field} differs between the files: {said}: not one scan?")
    return next(iter(values), "")


def field_strength(
    metas: Sequence[tuple[str, dict[str, Any]]], b0_tesla: float | None, imaging_frequency_mhz: float | None
) -> tuple[float, str, list[str]]:
    """Field strength in T, where it comes from, and warnings.

    The imaging frequency over gamma is what ppm refer to; the nominal field serves where it is missing. Flags
    override sidecars. Raises MetadataError where nothing is stated or two statements contradict each other.
    """
    frequency = agreed_number(metas, "ImagingFrequency", 1e-3)
    nominal = agreed_number(metas, "MagneticFieldStrength", 1e-3)
    stored = b0_from_imaging_frequency(frequency) if frequency is not None else nominal
    if frequency is not None and nominal is not None:
        _consistent(b0_from_imaging_frequency(frequency), nominal, "ImagingFrequency", "MagneticFieldStrength")
    if imaging_frequency_mhz is not None:
        given, source = b0_from_imaging_frequency(imaging_frequency_mhz), "--imaging-frequency-mhz"
        if b0_tesla is not None:
            _consistent(given, b0_tesla, "--imaging-frequency-mhz", "--b0-tesla")
    elif b0_tesla is not None:
        given, source = float(b0_tesla), "--b0-tesla"
    elif stored is not None:
        return stored, "ImagingFrequency" if frequency is not None else "MagneticFieldStrength", []
    else:
        raise MetadataError(
            f"{metas[0][0]}: no sidecar states MagneticFieldStrength or ImagingFrequency; give --b0-tesla"
        )
    warnings = []
    if stored is not None and abs(given - stored) > FLAG_AGREEMENT * stored:
        warnings.append(f"field strength {given:.4g} T by {source} overrides {stored:.4g} T of the sidecars")
    return given, source, warnings


def _consistent(actual: float, nominal: float, actual_name: str, nominal_name: str) -> None:
    if not abs(actual - nominal) <= B0_AGREEMENT * abs(nominal):
        raise MetadataError(
            f"{actual_name} says {actual:.4g} T (protons) and {nominal_name} says {nominal:.4g} T; "
            "correct one of them or give --imaging-frequency-mhz"
        )
