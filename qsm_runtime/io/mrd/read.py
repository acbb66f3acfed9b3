"""A scan of MRD images as an Acquisition: echo times, field strength, phase scale and sign settled as for any format.

The scale of phase, in this order:
  parameter phasescale  rad, mrad, siemens, pm4096, minmax or SLOPE,INTERCEPT
  Meta Units            rad or mrad
  Meta RescaleSlope, RescaleIntercept   a vendor's own pair: 2, -4096 (Siemens); mrad, rad over 4096 levels
  vendor Siemens        uint16 up to 4095, no rescale: 0..4095 is one turn, as in its DICOM
  the values            where they fill the turn of one convention and no other; else the scan is refused
Echo times: parameter echotimesms, else sequenceParameters.TE and Meta EchoTime (ms), which must agree.
Field strength: H1resonanceFrequency_Hz over gamma, else systemFieldStrength_T.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime.errors import MetadataError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquire import scan_of
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.dicom.geometry import Layout, affine_of
from qsm_runtime.io.echoes import SAME_TIME_S, Echo
from qsm_runtime.io.image import SCANNER_CODE, Image
from qsm_runtime.io.mrd.described import Measurement, number_in
from qsm_runtime.io.mrd.exact import Exact
from qsm_runtime.io.mrd.parameters import Parameters
from qsm_runtime.io.mrd.planes import Plane
from qsm_runtime.io.mrd.stacks import Scan, as_frames
from qsm_runtime.io.phase_scaling import SCALES, Scaling, settle_scaling, span_of
from qsm_runtime.io.phase_sign import settle_sign
from qsm_runtime.io.sidecar import field_strength

SIEMENS_TYPE, SIEMENS_HIGHEST = np.dtype("<u2"), 4095
SAME_TIME_MS = 1000 * SAME_TIME_S
LEAST_MS = 0.1


@dataclass(frozen=True)
class Study:
    """An acquisition and the planes that its maps go back in place of, in the order of `layout`'s slices."""

    acquisition: Acquisition
    template: tuple[Plane, ...]
    layout: Layout
    counters: tuple[int, int, int, int]

    def planes(self, array: np.ndarray) -> np.ndarray:
        """A view (slice, row, column) of a map (x, y, z)."""
        return self.layout.planes(array)


def read_scan(
    scan: Scan,
    measurement: Measurement,
    parameters: Parameters,
    *,
    threads: int | None = None,
    only: int | None = None,
) -> Study:
    """An acquisition of one scan. only: the scan holds no echo but the one of this index.

    Raises MetadataError where echo times, field strength or phase scale are missing or ambiguous, InputError.
    """
    threads = threads or os.cpu_count() or 1
    warnings = list(scan.warnings)
    if only is None:
        times_ms = echo_times_ms(scan, measurement, parameters, warnings)
    else:
        times_ms = (expected_times_ms(measurement, parameters)[only],)
    first = scan.main[0]
    affine, layout = affine_of(as_frames(first), first[0].slice_mm)
    field_tesla, b0_source, said = field_strength([("the MRD header", _field(measurement))], None, None)
    warnings += said
    times_s = tuple(t / 1000 for t in times_ms)
    exact = Exact.of(measurement.exact)
    if exact is not None:
        times_s, field_tesla = exact.checked(first, times_s, field_tesla, only)
        affine, layout = exact.affine, exact.layout
    images = {part: [_image(e, layout, affine) for e in echoes] for part, echoes in scan.parts.items()}
    main = images["phase" if "phase" in images else next(iter(images))]
    grid = Grid.from_affine(main[0].shape, affine, "the images")
    scaling, scaling_text = _scaling(images, measurement.vendor, parameters.phase_scale)
    sign, sign_reason, said = settle_sign(measurement.vendor, parameters.phase_sign)
    warnings += said
    echoes = {part: [Echo(image, 0, None, i) for i, image in enumerate(of)] for part, of in images.items()}
    result = scan_of(
        echoes, times_s, field_tesla, grid, scaling=scaling, sign=sign, manufacturer=measurement.vendor,
        echo_difference=False, threads=threads, warnings=warnings,
    )  # fmt: skip
    acquisition = Acquisition(
        scan=result,
        placement=Placement(affine, affine, SCANNER_CODE, affine, SCANNER_CODE),
        name="mrd" + (f"_{'-'.join(map(str, scan.counters))}" if any(scan.counters) else ""),
        sources=("MRD stream",),
        phase_scaling=scaling_text,
        phase_sign=sign,
        phase_sign_reason=sign_reason,
        b0_source=b0_source,
        manufacturer=measurement.vendor,
        warnings=warnings,
    )
    return Study(acquisition, scan.template, layout, scan.counters)


def echo_times_ms(
    scan: Scan, measurement: Measurement, parameters: Parameters, warnings: list[str]
) -> tuple[float, ...]:
    """Echo times in ms of the echoes in order. Raises MetadataError where they are missing or contradict."""
    numbers = [echo[0].echo for echo in scan.main]
    meta = [_meta_time(echo) for echo in scan.main]
    given = parameters.echo_times_ms
    if given:
        if len(given) != len(numbers):
            raise UsageError(f"{len(numbers)} echoes but {len(given)} echo times in the parameter echotimesms")
        for i, (flag, time) in enumerate(zip(given, meta, strict=True)):
            if time is not None and abs(flag - time) > SAME_TIME_MS:
                warnings.append(f"echo time {flag:g} ms of echo {i + 1} overrides {time:g} ms of its images")
        return given
    header = _header_times(numbers, measurement.echo_times_ms)
    for m, h, number in zip(meta, header, numbers, strict=True):
        if m is not None and h is not None and abs(m - h) > SAME_TIME_MS:
            raise MetadataError(f"echo {number + 1}: Meta EchoTime says {m:g} ms, the header's TE {h:g} ms")
    stated = [m if m is not None else h for m, h in zip(meta, header, strict=True)]
    absent = [str(number + 1) for number, time in zip(numbers, stated, strict=True) if time is None]
    if absent:
        raise MetadataError(
            f"no echo time for echo {', '.join(absent)}: neither the header's TE nor Meta EchoTime states it; "
            "give the parameter echotimesms"
        )
    times = tuple(time for time in stated if time is not None)
    if max(times) < LEAST_MS:
        raise MetadataError(f"echo times of {times} ms are none; Meta EchoTime must be in ms")
    return times


def expected_times_ms(measurement: Measurement, parameters: Parameters) -> tuple[float, ...]:
    """Echo times of the whole scan before it is there; empty where nothing but the images states them."""
    return parameters.echo_times_ms or measurement.echo_times_ms


def _header_times(numbers: Sequence[int], times_ms: Sequence[float]) -> list[float | None]:
    """TE of each echo by its contrast counter, which counts from 0, or, where it says so itself, from 1."""
    if times_ms and min(numbers) == 1 and max(numbers) == len(times_ms) == len(numbers):
        numbers = [n - 1 for n in numbers]
    if len(times_ms) > len(numbers) and max(numbers) < len(times_ms):
        absent = [str(n + 1) for n in range(len(times_ms)) if n not in numbers]
        raise MetadataError(
            f"echo {', '.join(absent)} of {len(times_ms)} is missing; send them, or give the parameter echotimesms"
        )
    return [times_ms[n] if n < len(times_ms) else None for n in numbers]


def _meta_time(echo: Sequence[Plane]) -> float | None:
    stated = {number_in(p.source.meta, "EchoTime") for p in (echo[0], echo[-1])}
    if len(stated) > 1:
        raise MetadataError(f"{echo[0]} and {echo[-1]} state different echo times")
    return stated.pop()


def _field(measurement: Measurement) -> dict[str, Any]:
    stated = {
        "ImagingFrequency": None if measurement.frequency_hz is None else measurement.frequency_hz / 1e6,
        "MagneticFieldStrength": measurement.field_tesla,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _image(echo: Sequence[Plane], layout: Layout, affine: np.ndarray) -> Image:
    """The samples of an echo as a volume, stored as received."""
    first = echo[0]
    name = f"{first.part} echo {first.echo + 1}"
    kinds = {p.samples.dtype for p in echo}
    if len(kinds) > 1:
        raise MetadataError(f"{name}: images of different data types ({', '.join(sorted(map(str, kinds)))})")
    scales = [_rescale(p) for p in echo]
    samples = np.empty((len(echo), *first.samples.shape), first.samples.dtype)
    for k, plane in enumerate(echo):
        samples[k] = plane.samples
    if len(set(scales)) > 1:
        if first.part == "phase":
            raise MetadataError(f"{name}: images of one volume have different phase scales")
        slopes, intercepts = np.array(scales, np.float32).T[..., None, None]
        samples = samples * slopes + intercepts
        scales[0] = (1.0, 0.0)
    units = (first.source.meta.get("Units") or [""])[0]
    slope, intercept = scales[0]
    return Image(Path(name), layout.array(samples)[..., None], slope, intercept, None, affine, {"Units": units})


def _rescale(plane: Plane) -> tuple[float, float]:
    slope, intercept = (number_in(plane.source.meta, f"Rescale{part}") for part in ("Slope", "Intercept"))
    return slope if slope else 1.0, intercept or 0.0


def _scaling(images: dict[str, list[Image]], vendor: str, choice: str) -> tuple[dict[str, Scaling], str]:
    if "phase" not in images:
        if choice != "auto":
            raise UsageError("a phase scale has no meaning for real and imaginary or complex images")
        return {}, f"angle of {' and '.join(images)} images"
    phase = images["phase"]
    plain = all(i.slope == 1.0 and i.intercept == 0.0 and not i.meta["Units"] for i in phase)
    if choice == "auto" and plain and "siemens" in vendor.lower() and phase[0].stored.dtype == SIEMENS_TYPE:
        span = span_of(phase)
        if span.high <= SIEMENS_HIGHEST:
            text = "siemens: 0..4095 is one turn, as Siemens stores phase without rescale"
            return {str(i.path): Scaling(*SCALES["siemens"], text) for i in phase}, text
    scaling = settle_scaling(phase, choice)
    return scaling, next(iter(scaling.values())).text.replace("the sidecar's Units", "Meta Units")
