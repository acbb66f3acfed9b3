"""One record for each image plane, the same for classic and enhanced multi-frame objects.

An enhanced object keeps what differs between frames in PerFrameFunctionalGroups and the rest in
SharedFunctionalGroups (DICOM PS3.3 C.7.6.16); its top-level values (ImageType MIXED) say nothing of a frame.
"""

from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import UID

from qsm_runtime.io.dcm2niix import NO_ECHO_IMAGES, PARTS_OF_IMAGE_TYPE
from qsm_runtime.io.dicom.header import integer, items, number, numbers, private, text, texts
from qsm_runtime.io.dicom.instance import CLASSIC_MR, Instance

ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")  # and legacy converted enhanced
FULL_PART = {"mag": "magnitude", "phase": "phase", "real": "real", "imag": "imaginary"}
GE_PARTS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}  # (0043,102F)
COMPONENTS = {"MAGNITUDE": "magnitude", "PHASE": "phase", "REAL": "real", "IMAGINARY": "imaginary"}
# words of ImageType for images that are computed from the echoes; DERIVED alone also marks a distortion correction
COMPUTED = (NO_ECHO_IMAGES - {"DERIVED"}) | {
    "SECONDARY", "SWI", "MIP", "MNIP", "MINIP", "MPR", "CSA MPR", "SUBTRACTION", "ADC", "R2 MAP", "T2 MAP",
    "R2_STAR MAP", "T2_STAR MAP", "T1 MAP", "QSM", "MEAN", "SCREEN SAVE",
}  # fmt: skip
WORDS_OF_PART = frozenset({"ORIGINAL", "DERIVED", "PRIMARY", "NONE"} | set().union(*PARTS_OF_IMAGE_TYPE.values()))


class Frame(NamedTuple):
    """One plane: position and orientation in mm (LPS), spacing between rows and columns in mm, samples' scale.

    part: magnitude, phase, real, imaginary, or empty. why_not: why it is no echo image, empty where it is one.
    precise: Philips' factor from displayed to acquired values (2005,100E), None elsewhere.
    repetition: values that tell repetitions of one plane apart. words: of ImageType, without those of the part.
    """

    instance: Instance
    frame_index: int
    part: str
    why_not: str
    echo_time_ms: float | None
    echo_number: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slice_mm: float | None
    slope: float | None
    intercept: float | None
    precise: float | None
    repetition: tuple
    words: frozenset[str]


def frames_of(dataset: Dataset, instance: Instance) -> list[Frame]:
    """The planes of an MR image object. Raises one of MALFORMED where a value is none."""
    if instance.sop_class == CLASSIC_MR:
        return [_classic(dataset, instance)]
    shared = next(iter(items(dataset, 0x52009229)), Dataset())
    each = items(dataset, 0x52009230)
    if len(each) != instance.frames:
        raise ValueError(f"{instance.frames} frames announced, {len(each)} described")
    return [_enhanced(dataset, shared, own, instance, i) for i, own in enumerate(each)]


def no_image(dataset: Dataset) -> str:
    """Why a dataset is no MR image that could be read, empty where it is one."""
    sop_class, modality = text(dataset, 0x00080016), text(dataset, 0x00080060)
    if not sop_class:
        return "DICOM without a SOP class"
    if sop_class not in (CLASSIC_MR, *ENHANCED_MR):
        name = UID(sop_class).name
        return name if name != sop_class else "private object"
    if modality not in ("MR", ""):
        return f"modality {modality}"
    if integer(dataset, 0x00280002) not in (1, None):
        return "colour image"
    if text(dataset, 0x00282110) == "01":
        return "lossy compressed image"
    return ""


def _classic(dataset: Dataset, instance: Instance) -> Frame:
    words = frozenset(word.upper() for word in texts(dataset, 0x00080008))
    ge = private(dataset, 0x0043, "GEMS_PARM_01", 0x2F)
    code = None if ge is None else number(dataset, ge, "SS")
    part = GE_PARTS.get(int(code), "") if code is not None else _part(words)
    precise = private(dataset, 0x2005, "Philips MR Imaging DD 001", 0x0E)
    repetition = (number(dataset, 0x00200100), number(dataset, 0x00200012), number(dataset, 0x00181060))
    return Frame(
        instance,
        0,
        part,
        _why_not(words, part, text(dataset, 0x00180085)),
        _positive(number(dataset, 0x00180081)),
        integer(dataset, 0x00180086),
        numbers(dataset, 0x00200032),
        numbers(dataset, 0x00200037),
        numbers(dataset, 0x00280030),
        number(dataset, 0x00180088) or number(dataset, 0x00180050),
        number(dataset, 0x00281053),
        number(dataset, 0x00281052),
        None if precise is None else _positive(number(dataset, precise, "FL")),
        repetition,
        words - WORDS_OF_PART,
    )


def _enhanced(dataset: Dataset, shared: Dataset, own: Dataset, instance: Instance, index: int) -> Frame:
    def group(tag: int) -> Dataset:
        return next((found[0] for source in (own, shared) if (found := items(source, tag))), Dataset())

    kind, echo, content = group(0x00189226), group(0x00189114), group(0x00209111)
    measures, transform = group(0x00289110), group(0x00289145)
    words = frozenset(word.upper() for word in texts(kind, 0x00089007) or texts(dataset, 0x00080008))
    component = text(kind, 0x00089208).upper() or text(dataset, 0x00089208).upper()
    part = COMPONENTS.get(component) or _part(words)
    philips = group(0x2005140F)
    precise = private(philips, 0x2005, "Philips MR Imaging DD 001", 0x0E)
    repetition = (number(content, 0x00209128), number(content, 0x00209156), None)
    return Frame(
        instance,
        index,
        part,
        _why_not(words, part, text(dataset, 0x00189100)),
        _positive(number(echo, 0x00189082)),
        integer(philips, 0x00180086),
        numbers(group(0x00209113), 0x00200032),
        numbers(group(0x00209116), 0x00200037),
        numbers(measures, 0x00280030),
        number(measures, 0x00180088) or number(measures, 0x00180050),
        number(transform, 0x00281053),
        number(transform, 0x00281052),
        None if precise is None else _positive(number(philips, precise, "FL")),
        repetition,
        words - WORDS_OF_PART,
    )


def _part(words: frozenset[str]) -> str:
    named = [FULL_PART[part] for part, names in PARTS_OF_IMAGE_TYPE.items() if words & names]
    return named[0] if len(named) == 1 else ""


def _why_not(words: frozenset[str], part: str, nucleus: str) -> str:
    computed = sorted(words & COMPUTED)
    if computed:
        return f"computed image ({', '.join(computed)})"
    if nucleus.upper() not in ("1H", "H1", "H", ""):
        return f"nucleus {nucleus}"
    return "" if part else "neither magnitude, phase, real nor imaginary by its header"


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
