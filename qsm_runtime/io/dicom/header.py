"""Values of a DICOM header, decoded from the raw element where it is still raw: a scan has thousands of headers,
and building an element object for each value is most of the time a header takes.

Numbers that are not finite or not numbers raise ValueError, as every other malformed value does.
"""

import logging
import math
import struct
import zlib
from collections.abc import Sequence

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

# what is said of a value that breaks the standard quotes it, and consoles break it often: values name patients
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").addHandler(logging.NullHandler())

# what pydicom raises for bytes that are no DICOM, wherever it notices first
MALFORMED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
TEXT_PADDING = " \0"
LONGEST_TEXT = 64  # of UI, LO and SH (PS3.5 6.2)


def texts(dataset: Dataset, tag: int) -> list[str]:
    """The values of an element as text without padding, empty where it is absent; nothing a terminal would obey."""
    found = [str(value).strip(TEXT_PADDING)[:LONGEST_TEXT] for value in _values(dataset, tag)]
    return [t if t.isprintable() else "".join(c if c.isprintable() else "?" for c in t) for t in found]


def text(dataset: Dataset, tag: int) -> str:
    """The first value as text, empty where absent."""
    found = texts(dataset, tag)
    return found[0] if found else ""


def numbers(dataset: Dataset, tag: int, vr: str = "") -> tuple[float, ...]:
    """The values as finite numbers, empty where absent. vr: what a private element is, should the file not say."""
    found = tuple(float(value) for value in _values(dataset, tag, vr) if not _is_blank(value))
    if not all(math.isfinite(value) for value in found):
        raise ValueError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not finite")
    return found


def number(dataset: Dataset, tag: int, vr: str = "") -> float | None:
    """The first value as a finite number, None where absent."""
    found = numbers(dataset, tag, vr)
    return found[0] if found else None


def integer(dataset: Dataset, tag: int) -> int | None:
    """The first value as an integer, None where absent."""
    value = number(dataset, tag)
    return None if value is None else int(value)


def items(dataset: Dataset, tag: int) -> Sequence[Dataset]:
    """The items of a sequence, empty where absent."""
    if tag not in dataset:
        return ()
    value = dataset[tag].value
    return () if value is None or isinstance(value, bytes | str) else value


def private(dataset: Dataset, group: int, creator: str, element: int) -> int | None:
    """Tag of a private element in the block that `creator` reserved, None where there is none."""
    for slot in range(0x10, 0x18):  # vendors use the first blocks
        if text(dataset, group << 16 | slot) == creator:
            tag = group << 16 | slot << 8 | element
            return tag if tag in dataset else None
    return None


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip(TEXT_PADDING)


def _values(dataset: Dataset, tag: int, vr: str = "") -> Sequence:
    if tag not in dataset:
        return ()
    element = dataset.get_item(tag)
    value = element.value
    if value is None:
        return ()
    stated = None if element.VR == "UN" else element.VR
    if isinstance(value, bytes) and (isinstance(element, RawDataElement) or stated is None):
        little_endian = bool(getattr(element, "is_little_endian", True))
        return _decode(value, stated or vr or _dictionary_vr(tag), little_endian)
    if isinstance(value, str | bytes | int | float):
        return (value,) if value != "" else ()
    return value


def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "LO"


def _decode(value: bytes, vr: str, little_endian: bool) -> Sequence:
    code = BINARY.get(vr[:2])  # "US or SS" as US
    if code is not None:
        count = len(value) // struct.calcsize(code)
        return struct.unpack(f"{'<' if little_endian else '>'}{count}{code}", value[: count * struct.calcsize(code)])
    decoded = value.decode("utf-8", "replace")
    return decoded.split("\\") if decoded.strip(TEXT_PADDING) else ()
