"""Values of other people's headers made valid: what breaks the rules of its VR (PS3.5 6.2) is mended or left out.

Scanners and archives write names that are too long, numbers with 17 digits, dates with dashes and text in a
character set that no element announces; a derived object must be valid all the same and name the same patient.
"""

import re
import warnings
from collections.abc import Iterable, Sequence

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from qsm_runtime.io.dicom.header import MALFORMED, numbers, texts

LONGEST = {"SH": 16, "LO": 64, "CS": 16, "ST": 1024, "LT": 10240, "UT": 10240, "PN": 64, "UC": 1024}
MULTI_LINE = ("ST", "LT", "UT")
LONGEST_NUMBER = 16
INT32 = 1 << 31
PATTERNS = {
    "DA": re.compile(r"\d{8}", re.ASCII),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII),
    "DT": re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?([+-]\d{4})?", re.ASCII),
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "UI": re.compile(r"(?=.{1,64}$)\d+(\.\d+)*", re.ASCII),  # leading zeros stay: changed, it names another object
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
}
CHARACTER_SETS = ("ISO_IR 100", "ISO_IR 192")  # tried in turn where the source's own will not do


def valid_values(header: Dataset, tag: int) -> list[str]:
    """The values of an element as text that its VR allows, empty where it is absent or none can be mended."""
    vr = dictionary_VR(tag)
    try:
        if vr == "DS":
            return [decimal(value) for value in numbers(header, tag)]
        if vr == "IS":
            return [str(int(value)) for value in numbers(header, tag) if abs(value) < INT32]
        found = _decoded(header, tag) if vr in LONGEST and vr != "CS" else texts(header, tag)
    except MALFORMED:
        return []
    mended = [_mended(value, vr) for value in found]
    return [value for value in mended if value] if vr != "CS" else ([] if "" in mended else mended)


def decimal(value: float) -> str:
    """A number as DS: as short as it can be said exactly, else to 16 characters."""
    shortest = f"{value:.15g}" if float(f"{value:.15g}") == value else repr(float(value))
    return shortest if len(shortest) <= LONGEST_NUMBER else format_number_as_ds(float(value))


def clipped(value: str, vr: str) -> str:
    """Our own text in ASCII, so that it never changes the character set of the patient's name; cut to the VR."""
    ascii_only = value.encode("ascii", "replace").decode("ascii")
    return _mended(ascii_only, vr)


def character_set(header: Dataset, values: Iterable[str]) -> str | list[str]:
    """SpecificCharacterSet that holds every one of `values`: none where ASCII does, the header's where it can."""
    joined = "\n".join(values)
    if joined.isascii():
        return ""
    own = texts(header, 0x00080005)
    candidates: list[Sequence[str]] = [own] if any(own) else []
    for names in [*candidates, *([name] for name in CHARACTER_SETS)]:
        if _holds(names, joined):
            return list(names) if len(names) > 1 else names[0]
    return CHARACTER_SETS[-1]


def _holds(names: Sequence[str], text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encodings = convert_encodings(list(names))
            return all(decode_bytes(encode_string(t, encodings), encodings, set()) == t for t in text.split("\n"))
    except (LookupError, UnicodeError, UserWarning, ValueError):
        return False


def _decoded(header: Dataset, tag: int) -> list[str]:
    """Values in the header's own character set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = header[tag].value if tag in header else None
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]


def _mended(value: str, vr: str) -> str:
    value = value.strip(" \0")
    if vr == "PN":
        groups = [_printable(group)[: LONGEST[vr]].rstrip(" ^") for group in value.split("=")[:3]]
        return "=".join(groups).rstrip("=")
    if vr == "DA":
        value = value.replace(".", "").replace("-", "")
    if vr == "TM":
        value = value.replace(":", "")
    if vr == "CS":
        value = value.upper()
    if vr in PATTERNS:
        return value if PATTERNS[vr].fullmatch(value) else ""
    if vr in MULTI_LINE:
        return "".join(c for c in value if c.isprintable() or c in "\r\n\t")[: LONGEST[vr]]
    return _printable(value).replace("\\", "/")[: LONGEST.get(vr, 64)].rstrip()


def _printable(value: str) -> str:
    return "".join(c for c in value if c.isprintable())
