"""Scans in a BIDS dataset, found by name: sub-*/[ses-*/]anat/*_part-mag_MEGRE and *_part-phase_MEGRE.

MEGRE is the BIDS suffix of multi-echo gradient echo, T2starw that of a T2*-weighted image, and GRE what
datasets used before either. Parts are mag and phase, or real and imag. Derivatives are no input.
"""

from collections.abc import Sequence
from pathlib import Path

from qsm_runtime.errors import InputError
from qsm_runtime.io.dcm2niix import find_converted
from qsm_runtime.io.found import Found
from qsm_runtime.io.image import SUFFIXES
from qsm_runtime.io.nifti import NOT_IN_STEM
from qsm_runtime.io.sidecar import dataset_root, entities_of

GRE_SUFFIXES = ("MEGRE", "T2starw", "GRE")
DATATYPES = ("anat", "swi")
PARTS = {"mag": "phase", "phase": "mag", "real": "imag", "imag": "real"}  # part -> the one it needs
ENTITY_ORDER = ("sub", "ses", "task", "acq", "ce", "rec", "run")
SKIPPED = ("derivatives", "sourcedata", "code")


def find_acquisitions(path: Path | str) -> Sequence[Found]:
    """Scans with phase below a dataset, subject, session or anat folder, sorted by name.

    A folder without a BIDS scan is taken as the output of dcm2niix, then as DICOM files. Incomplete scans are
    returned too and say what they miss. Raises InputError where there is none at all.
    """
    path = Path(path)
    found = find_named(path)
    if found:
        return found
    from qsm_runtime.io.dicom import find_dicom, holds_dicom

    if holds_dicom(path):
        return find_dicom(path)
    raise InputError(_none_found(path, _groups(path)))


def find_named(path: Path) -> list[Found]:
    """Scans that BIDS or dcm2niix named, empty where there is none. Raises InputError where there is no folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    groups = _groups(path)
    if not groups:
        return find_converted(path)
    with_phase = {key: parts for key, parts in sorted(groups.items()) if set(parts) != {"mag"}}
    stems = [stem for stem, _ in with_phase]
    return [
        _found(stem if stems.count(stem) == 1 else _told_apart(stem, suffix), parts)
        for (stem, suffix), parts in with_phase.items()
    ]


def _groups(path: Path) -> dict[tuple[str, str], dict[str, list[Path]]]:
    """GRE images by stem and suffix, then by part."""
    groups: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for image in _images(path):
        entities, suffix = entities_of(image.name)
        part = entities.get("part", "mag")
        if suffix in GRE_SUFFIXES and part in PARTS:
            stem = "_".join(f"{k}-{v}" for k, v in entities.items() if k not in NOT_IN_STEM)
            groups.setdefault((stem, suffix), {}).setdefault(part, []).append(image)
    return groups


def _images(path: Path) -> list[Path]:
    """GRE images in the folder's own dataset, without its derivatives."""
    root = path.absolute()
    images = []
    for suffix in SUFFIXES:
        for image in root.rglob(f"sub-*{suffix}"):
            between = image.relative_to(root).parts[:-1]
            if not set(between) & set(SKIPPED) and (image.parent.name in DATATYPES or image.parent == root):
                images.append(image)
    return sorted(images)


def _found(name: str, parts: dict[str, list[Path]]) -> Found:
    by_echo = {part: {entities_of(p.name)[0].get("echo", ""): p for p in files} for part, files in parts.items()}
    missing = []
    for part, files in parts.items():
        if len(by_echo[part]) < len(files):
            missing.append(f"several part-{part} files claim one echo: {', '.join(p.name for p in files)}")
        needed = PARTS[part]
        absent = sorted(set(by_echo[part]) - set(by_echo.get(needed, {})), key=_echo_key)
        for echo in absent:
            missing.append(f"{by_echo[part][echo].name} has no part-{needed}")
    if "phase" in parts and "real" in parts:  # both forms stored: mag and phase need no further sums
        parts = {p: f for p, f in parts.items() if p in ("mag", "phase")}
    ordered = {part: tuple(by_echo[part][e] for e in sorted(by_echo[part], key=_echo_key)) for part in parts}
    entities = entities_of(parts[next(iter(parts))][0].name)[0]
    return Found(name, {k: v for k, v in entities.items() if k not in NOT_IN_STEM}, ordered, tuple(missing))


def _told_apart(stem: str, suffix: str) -> str:
    """A stem with the suffix in its acq entity, for scans that differ in the suffix alone."""
    entities = dict(pair.split("-", 1) for pair in stem.split("_"))
    entities["acq"] = entities.get("acq", "") + suffix
    order = sorted(entities, key=lambda k: ENTITY_ORDER.index(k) if k in ENTITY_ORDER else len(ENTITY_ORDER))
    return "_".join(f"{k}-{entities[k]}" for k in order)


def _echo_key(echo: str) -> tuple[int, str]:
    return (int(echo), echo) if echo.isdigit() else (0, echo)


def _none_found(path: Path, groups: dict[tuple[str, str], dict[str, list[Path]]]) -> str:
    if groups:
        lonely = next(iter(next(iter(groups.values())).values()))[0]
        return f"{path}: {lonely.name} has no phase (part-phase or part-real and part-imag); export the phase images"
    if dataset_root(path / "x") is None:
        return f"{path}: no BIDS dataset here; give the images with --magnitude and --phase"
    return f"{path}: no *_part-mag_MEGRE and *_part-phase_MEGRE images; give them with --magnitude and --phase"
