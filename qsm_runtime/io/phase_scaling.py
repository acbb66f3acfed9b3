"""Stored phase to radians, and its sign: settled from the file's own metadata, refused where that is ambiguous.

Conventions met, with the values one turn spans after the header's slope and intercept:
  rad       [-pi, pi] or [0, 2 pi]  (Units: rad; Philips by dcm2niix with float scaling)
  mrad      [-3142, 3142]           (GE; Philips with intercept -3142)
  siemens   0..4095, integers       (Siemens without rescale: x / 4096 * 2 pi - pi)
  pm4096    [-4096, 4095]           (Siemens with slope 2, intercept -4096: x * pi / 4096)
A range alone decides only where the values fill nearly the whole turn of one convention and no other, as the
phase of noise does; a phase that fills less is ambiguous.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.errors import InputError, MetadataError, UsageError
from qsm_runtime.io.image import Image
from qsm_runtime.io.sidecar import number
from qsm_runtime.units import TWO_PI

PI = float(np.pi)
SCALES: dict[str, tuple[float, float]] = {  # name -> slope and intercept from header-scaled values to rad
    "rad": (1.0, 0.0),
    "mrad": (1e-3, 0.0),
    "siemens": (TWO_PI / 4096, -PI),
    "pm4096": (PI / 4096, 0.0),
}
ALIASES = {"±4096": "pm4096", "+-4096": "pm4096"}
CHOICES = ("auto", *SCALES, "minmax", "SLOPE,INTERCEPT")
TURN_FILLED = 0.95  # share of a turn that values must reach for their range to name the convention
INTEGER_TURN_FILLED = 0.9
MRAD_FILLED = 0.99
SLACK_RAD = 0.01  # rounding of a stored scale (3142 for 1000 pi)
REMEDY = f"give --phase-scale ({', '.join(CHOICES[1:])})"


@dataclass(frozen=True)
class Scaling:
    """rad = stored * slope + intercept; `text` says which convention and why; `wrap` asks for wrapping after."""

    slope: float
    intercept: float
    text: str
    wrap: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Range of the finite values, as stored and with the header's scale, over images that share it."""

    image: Image
    stored: tuple[float, float]
    low: float
    high: float
    integers: bool

    def __str__(self) -> str:
        return f"values from {self.low:.5g} to {self.high:.5g}"


def span_of(images: Sequence[Image]) -> Span:
    """Span of images with one stored type and scale; raises InputError where a volume is constant or not finite."""
    low, high, integers = np.inf, -np.inf, True
    for image in images:
        for index in range(image.n_volumes):
            volume = image.stored[..., index]
            bottom, top = float(volume.min()), float(volume.max())
            if not (np.isfinite(bottom) and np.isfinite(top)):
                finite = volume[np.isfinite(volume)]
                if finite.size == 0:
                    raise InputError(f"{image.name}: no voxel of volume {index + 1} is finite")
                bottom, top = float(finite.min()), float(finite.max())
            if bottom == top:
                raise InputError(
                    f"{image.name}: phase is constant ({bottom:g}) in volume {index + 1}; is it a phase image?"
                )
            low, high = min(low, bottom), max(high, top)
            integers = integers and _whole(volume)
    first = images[0]
    ends = sorted(v * first.slope + first.intercept for v in (low, high))
    return Span(first, (low, high), ends[0], ends[1], integers and first.slope == round(first.slope))


def _whole(volume: np.ndarray) -> bool:
    if volume.dtype.kind in "iu":
        return True
    sample = volume.ravel(order="K")[:: max(1, volume.size // 100_000)]
    sample = sample[np.isfinite(sample)]
    return bool(np.all(sample == np.rint(sample)))


def settle_scaling(images: Sequence[Image], phase_scale: str = "auto") -> dict[str, Scaling]:
    """Scaling of each phase image by file name, over images (x, y, z, n) of one scan.

    phase_scale: "auto", "rad", "mrad", "siemens" (0..4095), "pm4096" (+-4096), "minmax" (the data's own extremes
    are one turn) or "SLOPE,INTERCEPT" (rad = value * SLOPE + INTERCEPT); other than auto, they apply to the values
    as the header scales them. Raises MetadataError where auto finds no single answer.
    """
    groups: dict[tuple, list[Image]] = {}
    for image in images:
        if image.stored.dtype.kind == "c":
            raise InputError(f"{image.name} holds complex samples; give it as the complex image")
        groups.setdefault((image.stored.dtype, image.slope, image.intercept, _units(image)), []).append(image)
    settled: dict[str, Scaling] = {}
    for members in groups.values():
        span = span_of(members)
        scaling = _automatic(span) if phase_scale == "auto" else _given(phase_scale, span)
        settled.update({str(image.path): scaling for image in members})
    if len({s.text for s in settled.values()}) > 1:
        said = "; ".join(f"{image.name}: {settled[str(image.path)].text}" for image in images)
        raise MetadataError(f"the phase files follow different scales ({said}); {REMEDY}")
    return settled


def _units(image: Image) -> str:
    return str(image.meta.get("Units", "")).strip().lower()


def _given(phase_scale: str, span: Span) -> Scaling:
    name = ALIASES.get(phase_scale.strip().lower(), phase_scale.strip().lower())
    text = f"{name} as given ({span})"
    if name == "minmax":
        slope = TWO_PI / (span.high - span.low)
        return _over_header(span, slope, -PI - slope * span.low, text)
    if name in SCALES:
        slope, intercept = SCALES[name]
    else:
        try:
            slope, intercept = (float(part) for part in name.split(","))
        except ValueError:
            raise UsageError(f"phase scale {phase_scale!r} is none of {', '.join(CHOICES)}") from None
        if not (np.isfinite(slope) and np.isfinite(intercept) and slope != 0):
            raise UsageError(f"phase scale {phase_scale!r}: slope and intercept must be finite, the slope not 0")
    return _over_header(span, slope, intercept, text)


def _automatic(span: Span) -> Scaling:
    image, low, high = span.image, span.low, span.high
    units = _units(image)
    if units in ("rad", "radian", "radians"):
        if high - low > 4 * TWO_PI:
            raise MetadataError(f"{image.name}: the sidecar says Units {units} but {span}; correct it or {REMEDY}")
        return _over_header(span, *SCALES["rad"], "rad by the sidecar's Units")
    if units in ("mrad", "milliradians"):
        return _over_header(span, *SCALES["mrad"], "mrad by the sidecar's Units")
    by_header = _from_rescale(span, image.slope, image.intercept, "header")
    if by_header is not None:
        return by_header
    slope, intercept = (number(image.meta, f"PhilipsRescale{part}", image.name) for part in ("Slope", "Intercept"))
    if image.slope == 1.0 and image.intercept == 0.0 and low >= 0 and slope is not None and intercept is not None:
        by_sidecar = _from_rescale(span, slope, intercept, "sidecar's rescale")
        if by_sidecar is not None:
            return by_sidecar
    named = [name for name, fits in _range_rules(span).items() if fits]
    if len(named) == 1:
        return _over_header(span, *SCALES[named[0]], f"{named[0]}: {span} fill its turn")
    if not named and _fills(*span.stored, -PI, PI, 0.999, 1e-3):
        text = "rad as stored: the stored values fill [-pi, pi] and the header's slope is set aside"
        warning = f"{image.name}: the header scales phase by {image.slope:g}, which is no phase scale; {text}"
        return Scaling(1.0, 0.0, text, warnings=(warning,))
    raise MetadataError(
        f"{image.name}: the scale of the phase is ambiguous: {span}, Units {units or 'not stated'}, header slope "
        f"{image.slope:g} and intercept {image.intercept:g}; {REMEDY}"
    )


def _from_rescale(span: Span, slope: float, intercept: float, source: str) -> Scaling | None:
    """A slope and intercept that are a vendor's own: their intercept is minus half a turn."""
    stored_low, stored_high = (v * slope + intercept for v in span.stored)
    for name, half_turn in (("mrad", 1000 * PI), ("rad", PI), ("pm4096", 4096.0)):
        if abs(intercept + half_turn) > 1e-3 * half_turn or (name == "pm4096" and slope != 2.0):
            continue
        if slope * 4095 > 2.002 * half_turn or min(stored_low, stored_high) < -1.002 * half_turn:
            continue
        if max(stored_low, stored_high) <= 1.002 * half_turn:
            to_rad = SCALES[name][0]
            text = f"{name} by the {source} (slope {slope:g}, intercept {intercept:g})"
            return Scaling(slope * to_rad, intercept * to_rad, text)
    return None


def _range_rules(span: Span) -> dict[str, bool]:
    low, high, whole = span.low, span.high, span.integers
    return {
        "siemens": whole and _fills(low, high, 0, 4095, INTEGER_TURN_FILLED, 0) and low >= 0,
        "pm4096": whole and _fills(low, high, -4096, 4095, INTEGER_TURN_FILLED, 0),
        "mrad": _fills(low, high, -1000 * PI, 1000 * PI, MRAD_FILLED, 1.0),
        "rad": not whole
        and (
            _fills(low, high, -PI, PI, TURN_FILLED, SLACK_RAD)
            or (low >= 0 and _fills(low, high, 0, TWO_PI, TURN_FILLED, SLACK_RAD))
        ),
    }


def _fills(low: float, high: float, bottom: float, top: float, share: float, slack: float) -> bool:
    """Values lie within the turn and reach so near both its ends that `share` of each half is filled."""
    gap = (1 - share) * (top - bottom) / 2
    return bottom - slack <= low <= bottom + gap and top - gap <= high <= top + slack


def _over_header(span: Span, slope: float, intercept: float, text: str) -> Scaling:
    """Compose a scale of header-scaled values with the header's own."""
    ends = sorted((span.low * slope + intercept, span.high * slope + intercept))
    wrap = ends[0] < -PI - SLACK_RAD or ends[1] > PI + SLACK_RAD
    warnings = (f"{span.image.name}: phase beyond one turn ({ends[0]:.3g} to {ends[1]:.3g} rad) was wrapped",) * wrap
    header_slope, header_intercept = span.image.slope, span.image.intercept
    return Scaling(slope * header_slope, slope * header_intercept + intercept, text, wrap, warnings)
