"""Is this input what the network was made for? Values that cannot be in their unit are refused; what lies outside the
trained domain is said.

A field's median deviation is known within decades: ppm cannot be taken for Hz, rad or tesla.
"""

from collections.abc import Iterable

import numpy as np

from qsm_runtime.errors import InputError
from qsm_runtime.grid import Grid
from qsm_runtime.networks.card import Card
from qsm_runtime.scan import PHASE_SLACK_RAD
from qsm_runtime.units import rad_per_ppm

LARGEST_PPM = {"local_field": 0.1, "total_field": 4.0, "background_field": 4.0}  # median deviation; brains have a tenth
SMALLEST_PPM = 2e-5
USUAL_PPM = 0.04  # local fields of brains: 0.005, 0.02 where noisy; in rad at 20 ms and 3 T sixteen times that
SAMPLES = 200_000  # of a map, for its percentiles
SLACK = 0.01  # relative, on the ends of a trained range


def check_units(field_ppm: np.ndarray, mask: np.ndarray, meaning: str) -> list[str]:
    """Doubts about the unit. Raises InputError where `field_ppm` (x, y, z) cannot be in ppm."""
    if not np.isfinite(field_ppm[mask]).all():
        raise InputError(
            f"the {meaning.replace('_', ' ')} has values that are not finite inside the mask; mask them out"
        )
    values = _sampled(field_ppm, mask)
    spread = float(np.median(np.abs(values - np.median(values))))
    name = meaning.replace("_", " ")
    if spread > LARGEST_PPM[meaning]:
        raise InputError(
            f"the {name} deviates by {spread:.3g} (median) inside the mask, which is too much for ppm; it looks like "
            "Hz, rad or ppb: divide Hz by 42.577 x B0 in tesla, rad by that x 2 pi TE"
        )
    if 0 < spread < SMALLEST_PPM:
        raise InputError(
            f"the {name} deviates by {spread:.3g} (median) inside the mask, which is too little for ppm; it looks like "
            "tesla or a share of B0: multiply a share by 1e6"
        )
    if meaning == "local_field" and spread > USUAL_PPM:
        return [
            f"the {name} deviates by {spread:.3g} ppm (median) inside the mask, brains by 0.02 at most: is it phase in "
            "rad, or is there background left?"
        ]
    return []


def check_phase(phase_rad: np.ndarray, mask: np.ndarray) -> None:
    """Raises InputError where `phase_rad` (x, y, z) cannot be wrapped phase in rad."""
    values = phase_rad[mask]
    if not np.isfinite(values).all():
        raise InputError("the wrapped phase has values that are not finite inside the mask; mask them out")
    low, high = float(values.min()), float(values.max())
    if max(-low, high) > np.pi + PHASE_SLACK_RAD:
        raise InputError(
            f"the wrapped phase spans {low:.4g} to {high:.4g} inside the mask, which is not -pi to pi: it is in other "
            "units than rad, or unwrapped already"
        )


def outside(
    card: Card,
    mask: np.ndarray,
    grid: Grid,
    *,
    b0_tesla: float | None = None,
    field_ppm: np.ndarray | None = None,
    reliability: np.ndarray | None = None,
    echo_times_s: Iterable[float] | None = None,
) -> list[str]:
    """How the input leaves the card's trained domain; what is not known, here or in the card, is not judged."""
    domain, said = card.domain, []

    def judge(name: str, unit: str, trained: tuple[float, float] | None, low: float, high: float | None = None) -> None:
        high = low if high is None else high
        if trained is None:
            return
        slack = SLACK * max(abs(trained[0]), abs(trained[1]))
        if low < trained[0] - slack or high > trained[1] + slack:
            here = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            said.append(
                f"{name} {here}{unit} is outside what network {card.name} was trained on "
                f"({trained[0]:.3g} to {trained[1]:.3g}{unit})"
            )

    if b0_tesla is not None:
        judge("field strength", " T", domain.b0_tesla, b0_tesla)
    judge("voxel size", " mm", domain.voxel_mm, min(grid.voxel_mm), max(grid.voxel_mm))
    angle = float(np.degrees(np.arccos(min(1.0, abs(grid.b0_dir[2])))))
    judge("the angle of B0 to z,", " degrees", domain.angle_deg, round(angle, 1))
    if field_ppm is not None:
        low, high = (float(v) for v in np.percentile(_sampled(field_ppm, mask), (0.1, 99.9)))
        judge("field", " ppm", domain.field_ppm, low, high)
    snr = _snr(mask, reliability, b0_tesla, echo_times_s)
    if snr is not None:
        judge("signal-to-noise ratio", "", domain.snr, snr)
    return said


def outside_chi(card: Card, chi_ppm: np.ndarray, mask: np.ndarray) -> list[str]:
    """As `outside`, for what came out."""
    trained = card.domain.chi_ppm
    if trained is None or not mask.any():
        return []
    low, high = (float(v) for v in np.percentile(_sampled(chi_ppm, mask), (0.1, 99.9)))
    if low >= trained[0] * (1 + SLACK) and high <= trained[1] * (1 + SLACK):
        return []
    return [
        f"susceptibility {low:.3g} to {high:.3g} ppm is outside what network {card.name} was trained on "
        f"({trained[0]:.3g} to {trained[1]:.3g} ppm)"
    ]


def _sampled(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values inside the mask, every n-th of them where there are many."""
    values = x[mask]
    return values[:: max(1, values.size // SAMPLES)]


def _snr(
    mask: np.ndarray, reliability: np.ndarray | None, b0_tesla: float | None, echo_times_s: Iterable[float] | None
) -> float | None:
    """Median over the mask of the magnitude's signal-to-noise ratio, from 1/sigma = SNR sqrt(sum rad_per_ppm^2)."""
    if reliability is None or b0_tesla is None or echo_times_s is None:
        return None
    known = _sampled(reliability, mask)
    known = known[known > 0]
    if known.size == 0:
        return None
    slope = float(np.sqrt(sum(rad_per_ppm(b0_tesla, t) ** 2 for t in echo_times_s)))
    return float(np.median(known)) / slope
