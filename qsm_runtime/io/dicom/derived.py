"""Header of a derived map: an MR Image object for each source plane, in the same place, with values fixed in scale.

General Equipment is what made the object (PS3.3 C.7.5.1), so it names this software; the scanner stands in
ContributingEquipmentSequence (C.12.1.1.5). EchoTime is type 2 and empty: the map is made of all echoes and belongs to
none; for the same reason there is no EchoNumbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from qsm_runtime.io.acquisition import DicomTemplate, SourceObject
from qsm_runtime.io.dicom.carried import carried, scanner
from qsm_runtime.io.dicom.header import integer, numbers
from qsm_runtime.io.dicom.instance import CLASSIC_MR
from qsm_runtime.io.dicom.quantities import PRIVATE_SCHEME, Code, Quantity
from qsm_runtime.io.dicom.text_rules import clipped, decimal
from qsm_runtime.io.output import PACKAGE

RESEARCH_ONLY = "Research use only; not for diagnosis."
LATE = "LATE: the deadline passed and a cheaper recipe answered."
DERIVATION: Code = ("QSM", PRIVATE_SCHEME, "Quantitative susceptibility mapping")
ACQUIRED_BY: Code = ("109101", "DCM", "Acquisition Equipment")
PROCESSED_BY: Code = ("109102", "DCM", "Processing Equipment")
QUANTITY: Code = ("246205007", "SCT", "Quantity")
SHOWN_STAGES = ("unwrap", "field", "background", "inversion", "single_step", "reference")
LARGEST_SOURCE_NUMBER = 20_000_000  # of a series: a hundred times it is still an IS
UNNUMBERED = 9000
TIMEZONE = re.compile(r"([+-])(\d{2})(\d{2})")
VERSION = version(PACKAGE)
IMPLEMENTATION = UID("2.25.237384301694846411326428862171053297145")  # of these objects' writer


@dataclass(frozen=True)
class Made:
    """How the maps of one answer were made, in words for a header. *_uid: where the source has none."""

    recipe: str
    derivation: str
    comments: str
    late: bool
    at: datetime
    study_uid: str
    frame_of_reference_uid: str


def made(record: Mapping[str, Any], warnings: Sequence[str], late: bool) -> Made:
    """record: of pipeline.Result."""
    recipe = record.get("recipe", {})
    name = str(recipe.get("name", "")) or "unnamed"
    used = {stage: recipe[stage]["method"] for stage in SHOWN_STAGES if isinstance(recipe.get(stage), Mapping)}
    steps = ", ".join(f"{stage.replace('_', ' ')} {method}" for stage, method in used.items())
    derivation = f"{PACKAGE} {VERSION}, recipe {name}: {steps}"
    reference = record.get("reference")
    if reference:
        derivation += f". Reference {reference['region']}: {reference['value_ppm']:.6g} ppm subtracted"
    said = [RESEARCH_ONLY, *([LATE] if late else []), *(f"WARNING: {text}" for text in warnings)]
    return Made(
        recipe=name,
        derivation=clipped(derivation, "ST"),
        comments=clipped(" ".join(said), "LT"),
        late=late,
        at=datetime.now(UTC),
        study_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
    )


def series_header(template: DicomTemplate, quantity: Quantity, index: int, how: Made, field_tesla: float) -> Dataset:
    """What all objects of a series share. index: of the series among those of one answer."""
    header = template.headers[0]
    ds = carried(header)
    ds.SOPClassUID = CLASSIC_MR
    ds.Modality = "MR"
    ds.SeriesInstanceUID = generate_uid(prefix=None)
    number = integer(header, 0x00200011)
    base = 100 * number if number is not None and 0 < number <= LARGEST_SOURCE_NUMBER else UNNUMBERED
    ds.SeriesNumber = base + 1 + index
    ds.SeriesDescription = clipped(f"{'LATE ' if how.late else ''}QSM {quantity.label} {how.recipe}", "LO")
    ds.ImageType = ["DERIVED", "PRIMARY", *quantity.words]
    if "StudyInstanceUID" not in ds:
        ds.StudyInstanceUID = how.study_uid
    if "FrameOfReferenceUID" not in ds:
        ds.FrameOfReferenceUID = how.frame_of_reference_uid
    if "ScanningSequence" not in ds:
        ds.ScanningSequence = "GR"
    if "SequenceVariant" not in ds:
        ds.SequenceVariant = "NONE"
    if "MagneticFieldStrength" not in ds:
        ds.MagneticFieldStrength = decimal(round(field_tesla, 4))
    ds.EchoTime = None
    _moment(ds, how.at)
    _equipment(ds, header, how)
    ds.DerivationDescription = how.derivation
    ds.DerivationCodeSequence = coded(DERIVATION)
    ds.ImageComments = how.comments
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = PRIVATE_SCHEME, f"Codes of {PACKAGE}"
    scheme.CodingSchemeResponsibleOrganization = PACKAGE
    ds.CodingSchemeIdentificationSequence = Items([scheme])
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def plane_header(shared: Dataset, source: Dataset, objects: Sequence[SourceObject], number: int) -> Dataset:
    """One object's header: `shared`, and the place of the source plane, which `objects` show."""
    ds = Dataset()
    for element in shared:
        ds[element.tag] = element
    ds.SOPInstanceUID = generate_uid(prefix=None)
    ds.InstanceNumber = number
    ds.Rows, ds.Columns = integer(source, 0x00280010), integer(source, 0x00280011)
    ds.ImagePositionPatient = [decimal(v) for v in numbers(source, 0x00200032)]
    ds.ImageOrientationPatient = [decimal(v) for v in numbers(source, 0x00200037)]
    ds.PixelSpacing = [decimal(v) for v in numbers(source, 0x00280030)]
    ds.SourceImageSequence = Items([referenced(one) for one in objects])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = clipped(f"QSM {VERSION}", "SH")
    return ds


def values(ds: Dataset, quantity: Quantity, window: tuple[float, float], description: str) -> None:
    """What stored samples mean."""
    low, high = quantity.limits
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(quantity.signed)
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = quantity.step, "0", quantity.unit[0]
    ds.WindowCenter, ds.WindowWidth = (decimal(v) for v in window)
    ds.VOILUTFunction = "LINEAR_EXACT"  # the plain one takes no width below 1 (PS3.3 C.11.2.1.2)
    mapping = Dataset()
    vr = "SS" if quantity.signed else "US"
    mapping[0x00409216] = DataElement(0x00409216, vr, low)
    mapping[0x00409211] = DataElement(0x00409211, vr, high)
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, float(quantity.step)
    mapping.LUTExplanation = clipped(description, "LO")
    mapping.LUTLabel = clipped(quantity.label, "SH")
    mapping.MeasurementUnitsCodeSequence = coded(quantity.unit)
    concept = Dataset()
    concept.ValueType = "CODE"
    concept.ConceptNameCodeSequence = coded(QUANTITY)
    concept.ConceptCodeSequence = coded(quantity.concept)
    mapping.QuantityDefinitionSequence = Items([concept])
    ds.RealWorldValueMappingSequence = Items([mapping])


def coded(code: Code) -> Items:
    """A code sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return Items([item])


def referenced(one: SourceObject) -> Dataset:
    """An item of SourceImageSequence; what for stands in DerivationCodeSequence, once."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class, one.sop_uid
    if one.frames:
        item.ReferencedFrameNumber = list(one.frames)
    item.SpatialLocationsPreserved = "YES"
    return item


def _moment(ds: Dataset, at: datetime) -> None:
    """The time of making, in the time zone that the source states."""
    stated = TIMEZONE.fullmatch(str(ds.get("TimezoneOffsetFromUTC", "")))
    if stated:
        sign, hours, minutes = stated.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        at = at.astimezone(timezone(-offset if sign == "-" else offset))
    else:
        ds.pop("TimezoneOffsetFromUTC", None)
        at = at.astimezone()
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = date
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = time


def _equipment(ds: Dataset, header: Dataset, how: Made) -> None:
    ds.Manufacturer = ds.ManufacturerModelName = PACKAGE
    ds.SoftwareVersions = clipped(VERSION, "LO")
    acquired = scanner(header)
    acquired.PurposeOfReferenceCodeSequence = coded(ACQUIRED_BY)
    processed = Dataset()
    processed.Manufacturer = processed.ManufacturerModelName = PACKAGE
    processed.SoftwareVersions = ds.SoftwareVersions
    processed.ContributionDateTime = how.at.strftime("%Y%m%d%H%M%S%z")
    processed.ContributionDescription = how.derivation
    processed.PurposeOfReferenceCodeSequence = coded(PROCESSED_BY)
    ds.ContributingEquipmentSequence = Items([acquired, processed])
