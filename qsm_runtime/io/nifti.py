"""NIfTI files to a Scan: parts paired by echo, metadata settled, phase scaled and its sign made the project's."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from qsm_runtime.errors import InputError, MetadataError, UsageError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.echoes import Echo, check_pairing_known, echo_times, echoes_of, pair, phase_difference_time
from qsm_runtime.io.image import Image, check_same_grid, grid_of, load, load_all, placement_of, stem_of
from qsm_runtime.io.mask_file import mask_of
from qsm_runtime.io.phase_scaling import PI, Scaling, settle_scaling
from qsm_runtime.io.phase_sign import settle_sign
from qsm_runtime.io.sidecar import agreed_text, dataset_root, entities_of, field_strength
from qsm_runtime.scan import Scan
from qsm_runtime.units import TWO_PI

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
    with ThreadPoolExecutor(max_workers=threads) as pool:
        if "phase" in images:
            scaling = settle_scaling(images["phase"], phase_scale)
            scaling_text = next(iter(scaling.values())).text
            warnings += sorted({w for s in scaling.values() for w in s.warnings})
            phase_rad = _stack(echoes["phase"], lambda e: _phase(e, scaling[str(e.image.path)], sign), pool)
            magnitude_out = _magnitude(echoes.get("magnitude"), phase_rad, is_difference, pool)
        else:
            if phase_scale != "auto":
                raise UsageError("a phase scale has no meaning for real and imaginary or complex images")
            scaling_text = f"angle of {' and '.join(images)} images"
            magnitude_out, phase_rad = _polar(echoes, sign, pool, warnings)
    scan = Scan(magnitude_out, phase_rad, times_s, field_tesla, grid)
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


def _stack(echoes: Sequence[Echo], read: Callable[[Echo], np.ndarray], pool: ThreadPoolExecutor) -> np.ndarray:
    out = np.empty((len(echoes), *echoes[0].image.shape), np.float32)

    def fill(index: int) -> None:
        out[index] = read(echoes[index])

    list(pool.map(fill, range(len(echoes))))
    return out


def _phase(echo: Echo, scaling: Scaling, sign: int) -> np.ndarray:
    phase_rad = echo.image.volume(echo.index, sign * scaling.slope, sign * scaling.intercept)
    if scaling.wrap:
        phase_rad -= np.float32(TWO_PI) * np.rint(phase_rad / np.float32(TWO_PI))
    if echo.image.stored.dtype.kind == "f":
        phase_rad[np.isinf(phase_rad)] = np.nan  # clipping must not make a value of it
    return np.clip(phase_rad, -PI, PI, out=phase_rad)  # rounding of the stored scale


def _real_valued(echo: Echo) -> np.ndarray:
    if echo.image.stored.dtype.kind == "c":
        raise InputError(f"{echo.image.name} holds complex samples; give it as the complex image")
    return echo.image.volume(echo.index, echo.image.slope, echo.image.intercept)


def _complex_valued(echo: Echo) -> np.ndarray:
    if echo.image.stored.dtype.kind != "c":
        raise InputError(f"{echo.image.name}: samples are not complex")
    return echo.image.stored[..., echo.index]


def _magnitude(
    echoes: Sequence[Echo] | None, phase_rad: np.ndarray, difference: bool, pool: ThreadPoolExecutor
) -> np.ndarray:
    if echoes is None:
        return np.ones_like(phase_rad)
    magnitude = _stack(echoes, _real_valued, pool)
    if not difference or len(magnitude) == 1:
        return magnitude
    with np.errstate(invalid="ignore", divide="ignore"):  # the noise of a difference: 1/m^2 = 1/m1^2 + 1/m2^2
        combined = magnitude[0] * magnitude[1] / np.hypot(magnitude[0], magnitude[1])
    both_zero = (magnitude[0] == 0) & (magnitude[1] == 0)
    return np.where(both_zero, np.float32(0), combined)[None]


def _polar(
    echoes: dict[str, list[Echo]], sign: int, pool: ThreadPoolExecutor, warnings: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase (echo, x, y, z) of complex, or real and imaginary, images."""
    if "complex" in echoes:
        magnitude = _stack(echoes["complex"], lambda e: np.abs(_complex_valued(e)), pool)
        phase_rad = _stack(echoes["complex"], lambda e: sign * np.angle(_complex_valued(e)), pool)
    else:
        real, imaginary = (_stack(echoes[part], _real_valued, pool) for part in ("real", "imaginary"))
        for part, values in (("real", real), ("imaginary", imaginary)):
            if not np.nanmin(values) < 0:
                raise MetadataError(f"the {part} images have no negative values: their offset was lost; convert again")
        magnitude, phase_rad = np.hypot(real, imaginary), sign * np.arctan2(imaginary, real)
    if _alternates(magnitude[0], phase_rad[0]):
        warnings.append("the signal changed sign from slice to slice (as GE stores it); every second slice was negated")
        odd = phase_rad[..., 1::2]
        odd += np.where(odd > 0, np.float32(-PI), np.float32(PI))
    return magnitude, phase_rad


def _alternates(magnitude: np.ndarray, phase_rad: np.ndarray) -> bool:
    """Whether neighbouring slices are nearly opposite in phase throughout, which no field does."""
    weight = np.nan_to_num(magnitude[..., 1:] * magnitude[..., :-1])
    step = np.nan_to_num(phase_rad[..., 1:] - phase_rad[..., :-1])
    return bool(np.sum(weight * np.cos(step), dtype=float) < -0.5 * np.sum(weight, dtype=float))


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
