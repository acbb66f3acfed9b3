"""Scans in a folder of DICOM files, or in a list of datasets, and each read into an Acquisition."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from qsm_runtime.errors import InputError, MetadataError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquire import scan_of
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.geometry import affine_of
from qsm_runtime.io.dicom.grouping import stacks_of
from qsm_runtime.io.dicom.read import Planes, read_dataset, read_file, read_folder
from qsm_runtime.io.dicom.scaling import phase_scaling
from qsm_runtime.io.dicom.series import Choice, choose
from qsm_runtime.io.dicom.stacks import Stack, slug
from qsm_runtime.io.dicom.template import template_of
from qsm_runtime.io.dicom.times import echo_times
from qsm_runtime.io.dicom.volumes import volumes
from qsm_runtime.io.echoes import Echo
from qsm_runtime.io.found import Found
from qsm_runtime.io.image import SCANNER_CODE, Image, check_same_grid, load
from qsm_runtime.io.mask_file import mask_of
from qsm_runtime.io.phase_scaling import Scaling
from qsm_runtime.io.phase_sign import settle_sign
from qsm_runtime.io.sidecar import agreed_text, field_strength


@dataclass(frozen=True)
class FoundDicom(Found):
    """One scan among DICOM images: its stacks by part, why these, and what it lacks to be read."""

    stacks: dict[str, Stack] = field(default_factory=dict, repr=False)
    reason: str = ""

    @property
    def main(self) -> Stack:
        return self.stacks["phase" if "phase" in self.stacks else "real"]

    def read(
        self,
        *,
        echo_times_s: tuple[float, ...] | None = None,
        b0_tesla: float | None = None,
        imaging_frequency_mhz: float | None = None,
        phase_scale: str = "auto",
        phase_sign: str = "auto",
        b0_dir: tuple[float, float, float] | None = None,
        mask: Path | str | None = None,
        threads: int | None = None,
    ) -> Acquisition:
        """The scan as an Acquisition; options as in read_nifti. Raises InputError where images are missing."""
        if self.missing:
            raise InputError(f"{self.name} is incomplete: {'; '.join(self.missing)}")
        threads = threads or os.cpu_count() or 1
        warnings: list[str] = []
        stacks = self.stacks
        times_s, difference = echo_times(stacks, self.main, echo_times_s, warnings)
        first_echo = self.main.echoes[0].frames
        affine, layout = affine_of(first_echo, self.main.first.slice_mm or 0.0)
        images = {part: volumes(stack, layout, affine, threads) for part, stack in stacks.items()}
        main = images[self.main.part][0]
        grid = Grid.from_affine(main.shape, affine, main.name)
        if b0_dir is not None:
            grid = Grid(main.shape, grid.voxel_mm, b0_dir)
        mask_images = [] if mask is None else [load(mask)]
        check_same_grid([main, *mask_images])
        metas = [(str(stack), _meta(stack.first)) for stack in stacks.values()]
        if not any(meta for _, meta in metas) and b0_tesla is None and imaging_frequency_mhz is None:
            raise MetadataError(
                f"{self.name}: no header states ImagingFrequency or MagneticFieldStrength; give --b0-tesla"
            )
        field_tesla, b0_source, said = field_strength(metas, b0_tesla, imaging_frequency_mhz)
        warnings += said
        manufacturer = agreed_text(
            [(str(s), {"Manufacturer": s.first.instance.manufacturer}) for s in stacks.values()], "Manufacturer"
        )
        sign, sign_reason, said = settle_sign(manufacturer, phase_sign)
        warnings += said
        scaling, scaling_text = _scaling(stacks, images, phase_scale)
        echoes = {
            part: [
                Echo(image, 0, echo.time_ms, echo.number) for image, echo in zip(of, stacks[part].echoes, strict=True)
            ]
            for part, of in images.items()
        }
        scan = scan_of(
            echoes, times_s, field_tesla, grid, scaling=scaling, sign=sign, manufacturer=manufacturer,
            echo_difference=difference, threads=threads, warnings=warnings,
        )  # fmt: skip
        every = [frame for stack in stacks.values() for frame in stack.frames]
        paths = {str(frame.instance.path): frame.instance.path for frame in every if frame.instance.path is not None}
        return Acquisition(
            scan=scan,
            placement=Placement(affine, affine, SCANNER_CODE, affine, SCANNER_CODE),
            name=self.name,
            sources=tuple(dict.fromkeys(f"urn:oid:{frame.instance.series_uid}" for frame in every)),
            phase_scaling=scaling_text,
            phase_sign=sign,
            phase_sign_reason=sign_reason,
            b0_source=b0_source,
            manufacturer=manufacturer,
            mask=mask_of(mask_images[0], warnings) if mask_images else None,
            echo_difference=difference,
            source_paths=(*paths.values(), *(image.path for image in mask_images)),
            warnings=warnings,
            dicom=template_of(stacks.get("magnitude", self.main).echoes[0].frames, layout, every),
            choice=self.reason,
        )


def find_dicom(folder: Path | str, threads: int | None = None) -> list[FoundDicom]:
    """Scans with phase among the DICOM files in a folder and below, in the order of study and series number.

    Incomplete scans are returned too and say what they miss. Raises InputError where there is none at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    planes = read_folder(folder, threads or os.cpu_count() or 1)
    found = scans_of(planes)[0]
    if not found:
        raise InputError(f"{folder}: {none_found(planes)}")
    return found


def assemble(datasets: Sequence[Dataset]) -> list[FoundDicom]:
    """Scans with phase among datasets in memory. Incomplete ones say what they miss; empty where there is none."""
    arrivals = Arrivals()
    for dataset in datasets:
        arrivals.add(dataset)
    return arrivals.scans()


class Arrivals:
    """Objects as they arrive: each header is read once, when it comes, and scans may be asked for at any time."""

    def __init__(self) -> None:
        self._planes = Planes()

    def add(self, source: Dataset | Path) -> str:
        """Take a dataset in memory or a file. Returns why it is of no use, empty where it is."""
        read = read_dataset(source) if isinstance(source, Dataset) else read_file(source)
        self._planes.add("", read)
        return (read or "no DICOM") if isinstance(read, str) else ""

    def scans(self) -> list[FoundDicom]:
        """As `assemble`, of all that has come."""
        return scans_of(self._planes)[0]


def scans_of(planes: Planes) -> tuple[list[FoundDicom], list[tuple[Stack, str]], list[tuple[Frame, str]]]:
    """Scans, the stacks no scan uses and the planes in no stack, each with its reason."""
    stacks, aside = stacks_of(planes.frames)
    choices, unused = choose(stacks)
    return _named(choices, planes), unused, aside


def none_found(planes: Planes) -> str:
    """Why there is no scan, in one sentence with the remedy."""
    stacks, aside = stacks_of(planes.frames)
    if stacks:
        return (
            f"{len(stacks)} series of {', '.join(sorted({s.part for s in stacks}))} images, but no phase (or real and "
            "imaginary) images; export or transfer the phase images"
        )
    reasons = [f"{len(names)} x {why}" for why, names in planes.aside.items()]
    counts: dict[str, int] = {}
    for _, why in aside:
        counts[why] = counts.get(why, 0) + 1
    reasons += [f"{n} x {why}" for why, n in counts.items()]
    said = f" ({'; '.join(reasons)})" if reasons else ""
    return f"no MR image that could be used{said}; export magnitude and phase images as DICOM"


def _named(choices: Sequence[Choice], planes: Planes) -> list[FoundDicom]:
    found: list[FoundDicom] = []
    taken: dict[str, int] = {}
    studies = list(dict.fromkeys(stack.series[0] for c in choices for stack in c.parts.values()))
    unread = [f"{len(n)} files could not be read: {why}" for why, n in planes.aside.items() if "again" in why]
    for choice in choices:
        main = choice.parts.get("phase") or choice.parts["real"]
        number = main.first.instance.series_number
        pieces = [f"study-{studies.index(main.series[0]) + 1}"] if len(studies) > 1 else []
        pieces += [f"series-{'x' if number is None else number}"]
        pieces += [f"run-{main.repetition}"] if main.repetition else []
        pieces += [words] if (words := slug(main.first.instance.description)) else []
        name = "_".join(pieces)
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name += f"_{taken[name]}"
        missing = (*choice.missing, *unread) if choice.missing else ()
        files = {part: _paths(stack) for part, stack in choice.parts.items()}
        found.append(FoundDicom(name, {}, files, missing, choice.parts, choice.reason))
    return found


def _paths(stack: Stack) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(f.instance.path for f in stack.frames if f.instance.path is not None))


def _scaling(stacks: dict[str, Stack], images: dict[str, list[Image]], choice: str) -> tuple[dict[str, Scaling], str]:
    if "phase" in images:
        firsts = [echo.frames[0] for echo in stacks["phase"].echoes]
        scaling = phase_scaling(images["phase"], firsts, choice)
        return scaling, next(iter(scaling.values())).text
    if choice != "auto":
        raise UsageError("a phase scale has no meaning for real and imaginary images")
    return {}, "angle of real and imaginary images"


def _meta(frame: Frame) -> dict[str, float]:
    stated = {
        "ImagingFrequency": frame.instance.frequency_mhz,
        "MagneticFieldStrength": frame.instance.field_tesla,
    }
    return {name: value for name, value in stated.items() if value is not None}
