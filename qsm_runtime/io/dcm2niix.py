"""Scans in a folder that dcm2niix wrote: NAME_e1.nii.gz, NAME_e1_ph.nii.gz, ... with their sidecars.

The ending tells the part (_ph, _real, _imaginary); where there is none, ImageType in the sidecar does. Siemens
puts magnitude and phase into two series, so one set of each, alone in a folder, belongs together.
"""

import re
from pathlib import Path

from qsm_runtime.io.found import Found
from qsm_runtime.io.image import SUFFIXES, stem_of
from qsm_runtime.io.sidecar import read_sidecar

ENDINGS = {"_ph": "phase", "_real": "real", "_imaginary": "imag"}
ECHO_ENDING = re.compile(r"_e\d+$")
PARTS_OF_IMAGE_TYPE = {  # part -> the words that name it
    "phase": {"P", "PHASE", "PHASE MAP"},
    "real": {"R", "REAL"},
    "imag": {"I", "IMAGINARY"},
    "mag": {"M", "MAGNITUDE"},
}
NO_ECHO_IMAGES = {"B0", "B0 MAP", "FIELD_MAP", "DERIVED", "PROJECTION IMAGE"}


def find_converted(path: Path) -> list[Found]:
    """Scans with phase directly in the folder, sorted by name; empty where there is none."""
    groups: dict[str, dict[str, list[Path]]] = {}
    for image in sorted(p for p in path.absolute().iterdir() if p.name.lower().endswith(SUFFIXES)):
        stem, part = _stem_and_part(image)
        if part is not None:
            groups.setdefault(stem, {}).setdefault(part, []).append(image)
    complete = {s: p for s, p in groups.items() if {"mag", "phase"} <= set(p) or {"real", "imag"} <= set(p)}
    rest = {s: p for s, p in groups.items() if s not in complete}
    magnitudes = [p["mag"] for p in rest.values() if set(p) == {"mag"}]
    phases = {s: p["phase"] for s, p in rest.items() if set(p) == {"phase"}}
    if not complete and len(magnitudes) == len(phases) == 1:
        stem, phase = next(iter(phases.items()))
        complete = {stem: {"mag": magnitudes[0], "phase": phase}}
        phases = {}
    found = [_found(stem, parts) for stem, parts in complete.items()]
    for stem, phase in phases.items():
        found.append(Found(stem, {}, {"phase": tuple(phase)}, (f"{phase[0].name} has no magnitude of its name",)))
    return sorted(found, key=lambda f: f.name)


def _found(stem: str, parts: dict[str, list[Path]]) -> Found:
    wanted = ("mag", "phase") if "phase" in parts and "mag" in parts else ("real", "imag")
    return Found(stem, {}, {part: tuple(parts[part]) for part in wanted})


def _stem_and_part(image: Path) -> tuple[str, str | None]:
    stem = stem_of(image)
    for ending, part in ENDINGS.items():
        if stem.endswith(ending):
            return ECHO_ENDING.sub("", stem.removesuffix(ending)), part
    stated = read_sidecar(image).get("ImageType", [])
    words = {str(word).upper() for word in stated} if isinstance(stated, list) else set()
    if words & NO_ECHO_IMAGES:
        return stem, None
    named = [part for part, names in PARTS_OF_IMAGE_TYPE.items() if words & names]
    if "MIXED" in words:  # Philips enhanced: one ImageType for all its frames; phase bears its ending
        named = ["mag"]
    return ECHO_ENDING.sub("", stem), named[0] if len(named) == 1 else None
