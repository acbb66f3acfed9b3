"""Volumes paired by echo to a Scan: the one way every reader ends, so that one scan is one set of voxels.

Phase is scaled and its sign made the project's; real and imaginary or complex volumes become polar.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from qsm_runtime.errors import InputError, MetadataError
from qsm_runtime.grid import Grid
from qsm_runtime.io.echoes import Echo
from qsm_runtime.io.phase_scaling import PI, Scaling
from qsm_runtime.io.phase_sign import is_ge
from qsm_runtime.scan import Scan
from qsm_runtime.units import TWO_PI


def scan_of(
    echoes: Mapping[str, Sequence[Echo]],
    echo_times_s: tuple[float, ...],
    b0_tesla: float,
    grid: Grid,
    *,
    scaling: Mapping[str, Scaling],
    sign: int,
    manufacturer: str,
    echo_difference: bool,
    threads: int,
    warnings: list[str],
) -> Scan:
    """A Scan of magnitude and phase, phase alone, real and imaginary, or complex echoes; adds to `warnings`.

    echoes: by part, in order of echo time. scaling: of each phase volume, by its image's path. sign: of the phase.
    Raises InputError or MetadataError naming the volume.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        if "phase" in echoes:
            warnings += sorted({w for s in scaling.values() for w in s.warnings})
            phase_rad = _stack(echoes["phase"], lambda e: _phase(e, scaling[str(e.image.path)], sign), pool)
            magnitude = _magnitude(echoes.get("magnitude"), phase_rad, echo_difference, pool)
        else:
            magnitude, phase_rad = _polar(echoes, sign, pool)
    if "phase" not in echoes or is_ge(manufacturer):
        _undo_alternation(magnitude, phase_rad, warnings)
    return Scan(magnitude, phase_rad, echo_times_s, b0_tesla, grid)


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


def _polar(echoes: Mapping[str, Sequence[Echo]], sign: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase (echo, x, y, z) of complex, or real and imaginary, images."""
    if "complex" in echoes:
        magnitude = _stack(echoes["complex"], lambda e: np.abs(_complex_valued(e)), pool)
        phase_rad = _stack(echoes["complex"], lambda e: sign * np.angle(_complex_valued(e)), pool)
        return magnitude, phase_rad
    real, imaginary = (_stack(echoes[part], _real_valued, pool) for part in ("real", "imaginary"))
    for part, values in (("real", real), ("imaginary", imaginary)):
        if not np.nanmin(values) < 0:
            raise MetadataError(f"the {part} images have no negative values: their offset was lost; convert again")
    return np.hypot(real, imaginary), sign * np.arctan2(imaginary, real)


def _undo_alternation(magnitude: np.ndarray, phase_rad: np.ndarray, warnings: list[str]) -> None:
    """Turn every second slice by half a turn, in place, where the signal changes sign from slice to slice.

    GE stores 3-D scans so (the transform along slices is not shifted); slices lie along any axis of the array.
    """
    for axis in (3, 2, 1):
        if _alternates(magnitude[0], phase_rad[0], axis - 1):
            warnings.append(
                "the signal changed sign from slice to slice (as GE stores it); every second slice was negated"
            )
            odd = np.moveaxis(phase_rad, axis, 0)[1::2]
            odd += np.where(odd > 0, np.float32(-PI), np.float32(PI))
            return


def _alternates(magnitude: np.ndarray, phase_rad: np.ndarray, axis: int) -> bool:
    """Whether neighbouring slices are nearly opposite in phase throughout, which no field does."""
    magnitude, phase_rad = np.moveaxis(magnitude, axis, 0), np.moveaxis(phase_rad, axis, 0)
    weight = np.nan_to_num(magnitude[1:] * magnitude[:-1])
    step = np.nan_to_num(phase_rad[1:] - phase_rad[:-1])
    return bool(np.sum(weight * np.cos(step), dtype=float) < -0.5 * np.sum(weight, dtype=float))
