"""NIfTI files to a Scan: parts paired by echo, metadata settled, phase scaled and its sign made the project's."""

import os
from collections.abc import Sequence
from pathlib import Path

from qsm_runtime.errors import UsageError
from qsm_runtime.io.acquire import scan_of
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.echoes import Echo, check_pairing_known, echo_times, echoes_of, pair, phase_difference_time
from qsm_runtime.io.image import Image, check_same_grid, grid_of, load, load_all, placement_of, stem_of
from qsm_runtime.io.mask_file import mask_of
from qsm_runtime.io.phase_scaling import Scaling, settle_scaling
from qsm_runtime.io.phase_sign import settle_sign
from qsm_runtime.io.sidecar import agreed_text, dataset_root, entities_of, field_strength

Paths = Sequence[Path | str]
PARTS = (("magnitude", "phase"), ("phase",), ("real", "imaginary"), ("complex",))
NOT_IN_STEM = ("echo", "part")  # entities that tell files of one scan apart


def read_nifti(
    magnitude: Paths = (),
    phase: Paths = (),
    *,
    real: Paths = (),
    imaginary: Paths = (),
    complex_: Paths = (),
    echo_times_s: Sequence[float] | None = None,
    b0_tesla: float | None = None,
    imaging_frequency_mhz: float | None = None,
    phase_scale: str = "auto",
    phase_sign: str = "auto",
    b0_dir: Sequence[float] | None = None,
    mask: Path | str | None = None,
    name: str | None = None,
    threads: int | None = None,
) -> Acquisition:
    """Read one scan: each part is one 4-D file (echoes last) or a 3-D file per echo, in any order.

    Parts: magnitude and phase; phase alone with a mask; real and imaginary; or complex. Metadata come from JSON
    sidecars (with BIDS inheritance); echo_times_s (in echo order), b0_tesla, imaging_frequency_mhz and b0_dir
    (array axes) override them. phase_scale and phase_sign: see `phase_scaling`.
    Raises InputError, ShapeError or MetadataError naming the file, UsageError for impossible options.
    """
    named = {"magnitude": magnitude, "phase": phase, "real": real, "imaginary": imaginary, "complex": complex_}
    paths = {part: [Path(p) for p in given] for part, given in named.items() if len(given)}
    _check_parts(paths, mask)
    threads = threads or os.cpu_count() or 1
    loaded = load_all([p for given in paths.values() for p in given], threads)
    images = {part: [loaded.pop(0) for _ in given] for part, given in paths.items()}
    every = [image for given in images.values() for image in given]
    main = images[next(p for p in ("phase", "real", "complex") if p in images)][0]
    check_same_grid([main, *(image for image in every if image is not main)])
    warnings: list[str] = []
    grid = grid_of(main, b0_dir, warnings)
    mask_images = [] if mask is None else [load(mask)]
    check_same_grid([main, *mask_images])
    user_mask = mask_of(mask_images[0], warnings) if mask_images else None
    echoes, times_s, is_difference = _echoes_and_times(images, main, echo_times_s, warnings)

    metas = [(image.name, image.meta) for image in every]
    field_tesla, b0_source, said = field_strength(metas, b0_tesla, imaging_frequency_mhz)
    warnings += said
    manufacturer = agreed_text(metas, "Manufacturer")
    sign, sign_reason, said = settle_sign(manufacturer, phase_sign)
    warnings += said
    scaling: dict[str, Scaling] = {}
    if "phase" in images:
        scaling = settle_scaling(images["phase"], phase_scale)
        scaling_text = next(iter(scaling.values())).text
    elif phase_scale != "auto":
        raise UsageError("a phase scale has no meaning for real and imaginary or complex images")
    else:
        scaling_text = f"angle of {' and '.join(images)} images"
    scan = scan_of(
        echoes, times_s, field_tesla, grid, scaling=scaling, sign=sign, manufacturer=manufacturer,
        echo_difference=is_difference, threads=threads, warnings=warnings,
    )  # fmt: skip
    stem, folder = _stem_and_folder(main, name)
    return Acquisition(
        scan=scan,
        placement=placement_of(main),
        name=stem,
        sources=_sources([*every, *mask_images]),
        phase_scaling=scaling_text,
        phase_sign=sign,
        phase_sign_reason=sign_reason,
        b0_source=b0_source,
        folder=folder,
        manufacturer=manufacturer,
        mask=user_mask,
        echo_difference=is_difference,
        source_paths=tuple(image.path for image in [*every, *mask_images]),
        dataset_root=dataset_root(main.path),
        warnings=warnings,
    )


def _echoes_and_times(
    images: dict[str, list[Image]], main: Image, echo_times_s: Sequence[float] | None, warnings: list[str]
) -> tuple[dict[str, list[Echo]], tuple[float, ...], bool]:
    """Echoes of each part, paired; echo times in s; and whether the phase is a difference of two echoes."""
    echoes = {part: echoes_of(given, part) for part, given in images.items()}
    check_pairing_known({part: (images[part], echoes[part]) for part in images})
    if "phase" in echoes:
        difference_s = phase_difference_time(echoes["phase"], echoes.get("magnitude", ()), echo_times_s)
        if difference_s is not None:
            warnings.append(f"{main.name} is a phase difference: one echo of {1000 * difference_s:.4g} ms")
            return echoes, (difference_s,), True
    first, *others = sorted(echoes, key=lambda part: part in ("magnitude", "imaginary"))
    for part in others:
        pair(echoes[first], echoes[part], part)
    times_s, said = echo_times(echoes, echo_times_s)
    warnings += said
    return echoes, times_s, False


def _check_parts(paths: dict[str, list[Path]], mask: Path | str | None) -> None:
    given = tuple(paths)
    if given not in PARTS:
        said = " and ".join(given) if given else "nothing"
        raise UsageError(
            f"{said} was given; a scan needs magnitude and phase, or real and imaginary, or complex images "
            "(phase alone needs a mask)"
        )
    if given == ("phase",) and mask is None:
        raise UsageError("phase without magnitude needs a mask; give --mask, or the magnitude images")
    listed = [p.resolve() for part in paths.values() for p in part]
    if len(set(listed)) < len(listed):
        twice = next(p for p in listed if listed.count(p) > 1)
        raise UsageError(f"{twice.name} was given twice")


def _stem_and_folder(image: Image, name: str | None) -> tuple[str, str]:
    stem = stem_of(image.path)
    entities, _ = entities_of(stem)
    if stem.startswith("sub-"):
        kept = "_".join(f"{k}-{v}" for k, v in entities.items() if k not in NOT_IN_STEM)
        folder = "/".join(f"{k}-{entities[k]}" for k in ("sub", "ses") if k in entities) + "/anat"
        return name or kept, folder
    for ending in ("_ph", "_phase", "_part-phase", "_real", "_imaginary", "_complex"):
        stem = stem.removesuffix(ending)
    head, _, tail = stem.rpartition("_")
    if head and tail[:1] in "eE" and tail[1:].isdigit():
        stem = head
    return name or stem, ""


def _sources(images: Sequence[Image]) -> tuple[str, ...]:
    """Names of the files, relative to the root of their BIDS dataset as `bids:raw:` URIs."""
    names = []
    for image in images:
        root = dataset_root(image.path)
        names.append(image.name if root is None else f"bids:raw:{image.path.absolute().relative_to(root).as_posix()}")
    return tuple(names)
