"""Stored samples to values, by vendor. Phase follows the rules of io.phase_scaling wherever those decide.

Known from the header alone, so that no range has to fill a turn:
  Siemens   no rescale tags: 0..4095 is one turn (x / 4096 * 2 pi - pi); slope 2, intercept -4096: x * pi / 4096.
  Philips   rescale slope and intercept give mrad in [-3142, 3142]; the private (2005,100E) is not for phase.
            Magnitude, real and imaginary: acquired value = displayed / (slope * (2005,100E)), which alone makes
            images of different display scales comparable (10.1593/tlo.13811).
  GE        phase in mrad, [-3142, 3142].
"""

from collections.abc import Sequence

from qsm_runtime.errors import MetadataError
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.image import Image
from qsm_runtime.io.phase_scaling import PI, SCALES, SLACK_RAD, Scaling, settle_scaling, span_of
from qsm_runtime.io.phase_sign import is_ge

SIEMENS_LEVELS = 4096
LEAST_MRAD = 1500.0  # phase in mrad that spans less on both sides is in another unit


def value_scale(frame: Frame) -> tuple[float, float]:
    """Slope and intercept from stored samples to values; for phase, to what the header's rescale gives."""
    slope = 1.0 if frame.slope in (None, 0.0) else float(frame.slope or 1.0)
    intercept = frame.intercept or 0.0
    if frame.part == "phase" or frame.precise is None:
        return slope, intercept
    return 1.0 / frame.precise, intercept / (slope * frame.precise)


def phase_scaling(images: Sequence[Image], frames: Sequence[Frame], choice: str) -> dict[str, Scaling]:
    """Scaling of each phase volume by its image's path; frames: one of each volume. choice: see settle_scaling.

    Raises MetadataError where neither vendor nor values decide.
    """
    if choice != "auto":
        return settle_scaling(images, choice)
    manufacturer = frames[0].instance.manufacturer
    plain = all(image.slope == 1.0 and image.intercept == 0.0 for image in images)
    if plain and "siemens" in manufacturer.lower() and all(_siemens_levels(frame) for frame in frames):
        span_of(images)  # refuses a constant phase
        text = "siemens: 0..4095 is one turn, as Siemens stores phase without rescale tags"
        return {str(image.path): Scaling(*SCALES["siemens"], text) for image in images}
    if plain and is_ge(manufacturer):
        span = span_of(images)
        if max(-span.low, span.high) <= 1000 * (PI + SLACK_RAD) and max(-span.low, span.high) >= LEAST_MRAD:
            scaling = Scaling(*SCALES["mrad"], f"mrad, as GE stores phase ({span})")
            return {str(image.path): scaling for image in images}
    return settle_scaling(images)


def _siemens_levels(frame: Frame) -> bool:
    return frame.instance.bits_stored == 12 and frame.instance.dtype[1] == "u"


def check_one_scale(frames: Sequence[Frame], name: str) -> None:
    """Raise MetadataError where planes of one phase volume are scaled differently."""
    scales = {value_scale(frame) for frame in frames}
    if len(scales) > 1:
        said = ", ".join(f"slope {slope:g} intercept {intercept:g}" for slope, intercept in sorted(scales)[:3])
        raise MetadataError(f"{name}: planes of one volume have different phase scales ({said}); export it again")
