"""What MRD says in XML: the header of a measurement (ismrmrd.xsd) and the Meta attributes of an image.

Elements are found by their local names, so that a header of another version, or with elements the schema lacks, is
read all the same; what is missing is None here, and refused where it is needed. Document types are refused: MRD has
none, and entities are a way to make little text large.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from qsm_runtime.errors import InputError, MetadataError

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
RECIPE = "qsm_recipe"  # user parameter: the recipe that is asked for
EXACT = "qsm_exact"  # user parameter: JSON of what the header and the images hold rounded
DOCTYPE = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
KEEP_GEOMETRY = "Keep_image_geometry"

Meta = dict[str, list[str]]


@dataclass(frozen=True)
class Measurement:
    """What the header states; None or empty where it does not.

    echo_times_ms: of sequenceParameters. frequency_hz: of the protons. slices: images expected in one volume.
    volumetric: whether the slices are partitions of a 3-D encoding. slice_step_mm: of the reconstructed space.
    recipe, exact: see RECIPE, EXACT.
    """

    echo_times_ms: tuple[float, ...] = ()
    frequency_hz: float | None = None
    field_tesla: float | None = None
    vendor: str = ""
    protocol: str = ""
    identity: str = ""
    slices: int | None = None
    volumetric: bool = False
    slice_step_mm: float | None = None
    recipe: str = ""
    exact: dict[str, Any] = field(default_factory=dict)


def measurement_of(xml: str) -> Measurement:
    """The header of a measurement. Raises InputError where it is none, MetadataError naming a malformed value."""
    root = _root(xml.encode(), "ismrmrdHeader", "the MRD header")
    encoding = root.find("{*}encoding")
    recon = None if encoding is None else encoding.find("{*}reconSpace")
    partitions = _number(encoding, "encodedSpace/matrixSize/z")
    depth, extent = _number(recon, "matrixSize/z"), _number(recon, "fieldOfView_mm/z")
    last = _number(encoding, "encodingLimits/slice/maximum")
    volumetric = partitions is not None and partitions > 1
    slices = depth if volumetric else None if last is None else last + 1
    return Measurement(
        echo_times_ms=_echo_times(root),
        frequency_hz=_number(root, "experimentalConditions/H1resonanceFrequency_Hz"),
        field_tesla=_number(root, "acquisitionSystemInformation/systemFieldStrength_T"),
        vendor=_text(root, "acquisitionSystemInformation/systemVendor"),
        protocol=_text(root, "measurementInformation/protocolName"),
        identity=_text(root, "measurementInformation/measurementID"),
        slices=None if slices is None else int(slices),
        volumetric=volumetric,
        slice_step_mm=extent / depth if depth and extent else None,
        recipe=_user_text(root, RECIPE),
        exact=_exact(root),
    )


def meta_of(data: bytes) -> Meta:
    """Meta attributes by name, each a list of texts. Raises InputError where the text is not Meta XML."""
    data = data.strip(b"\0 \t\r\n")
    if not data:
        return {}
    found: Meta = {}
    for entry in _root(data, "ismrmrdMeta", "the Meta attributes of an image").findall("{*}meta"):
        name = entry.findtext("{*}name", "").strip()
        found.setdefault(name, []).extend((value.text or "").strip() for value in entry.findall("{*}value"))
    return found


def meta_xml(meta: Meta) -> bytes:
    """Meta attributes as XML."""
    entries = []
    for name, values in meta.items():
        inner = "".join(f"<value>{escape(value)}</value>" for value in values)
        entries.append(f"<meta><name>{escape(name)}</name>{inner}</meta>")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ismrmrdMeta>{"".join(entries)}</ismrmrdMeta>'.encode()


def keeping_geometry(data: bytes) -> bytes:
    """The Meta text of an image that is sent back as it came: as it was, with its geometry to be kept."""
    try:
        meta = meta_of(data)
    except InputError:
        return data
    if meta.get(KEEP_GEOMETRY) == ["1"]:
        return data
    end = data.rfind(b"</ismrmrdMeta>")
    if end >= 0 and KEEP_GEOMETRY not in meta:
        entry = f"<meta><name>{KEEP_GEOMETRY}</name><value>1</value></meta>".encode()
        return data[:end] + entry + data[end:]
    return meta_xml({**meta, KEEP_GEOMETRY: ["1"]})


def number_in(meta: Meta, name: str) -> float | None:
    """A finite number of the Meta attributes, None where absent. Raises MetadataError."""
    values = [value for value in meta.get(name, []) if value]
    return _finite(values[0], f"Meta {name}") if values else None


def _root(data: bytes, tag: str, what: str) -> ElementTree.Element:
    if DOCTYPE.search(data):
        raise InputError(f"{what} declares a document type, which MRD has not")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{what} is no XML ({error})") from None
    if root.tag.rpartition("}")[2] != tag:
        raise InputError(f"{what} begins with {root.tag.rpartition('}')[2][:40]!r}, expected {tag}")
    return root


def _echo_times(root: ElementTree.Element) -> tuple[float, ...]:
    found = [_finite(e.text or "", "TE") for e in root.findall("{*}sequenceParameters/{*}TE")]
    while found and found[-1] == 0:  # what an array of fixed length has to spare
        found.pop()
    if found and max(found) < 0.1:
        raise MetadataError(f"the header's echo times {found} are no milliseconds; write TE in ms")
    return tuple(found)


def _exact(root: ElementTree.Element) -> dict[str, Any]:
    try:
        values = json.loads(_user_text(root, EXACT))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _user_text(root: ElementTree.Element, name: str) -> str:
    """A user parameter of the header; empty where it has none of this name."""
    for parameter in root.findall("{*}userParameters/{*}userParameterString"):
        if parameter.findtext("{*}name", "").strip() == name:
            return (parameter.findtext("{*}value") or "").strip()
    return ""


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(_path(path)) or "").strip()


def _number(element: ElementTree.Element | None, path: str) -> float | None:
    text = "" if element is None else _text(element, path)
    return _finite(text, path.rpartition("/")[2]) if text else None


def _path(path: str) -> str:
    return "/".join("{*}" + part for part in path.split("/"))


def _finite(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MetadataError(f"{name} must be a number, got {text[:40]!r}")
    return value
