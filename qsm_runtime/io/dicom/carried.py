"""What a derived series takes over from the images it is made of: patient, study, place and acquisition.

A list of what is kept, not of what is dropped: scale, window, look-up tables, private elements and anything else that
describes the source's samples must not stand beside ours. Elements that MR Image (PS3.3 A.4) demands but allows to be
empty are empty where the source has none.
"""

import re
from collections.abc import Iterable, Iterator

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from qsm_runtime.io.dicom.header import items, text
from qsm_runtime.io.dicom.text_rules import character_set, valid_values

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyDescription",
)  # fmt: skip
SERIES = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "ProtocolName", "BodyPartExamined",
    "Laterality", "OperatorsName", "PerformingPhysicianName", "TimezoneOffsetFromUTC", "PerformedProcedureStepID",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepDescription",
    "InstitutionName",
)  # fmt: skip
ACQUISITION = (
    "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime", "ContrastBolusAgent", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "RepetitionTime", "InversionTime",
    "NumberOfAverages", "ImagingFrequency", "ImagedNucleus", "MagneticFieldStrength", "EchoTrainLength", "FlipAngle",
    "PixelBandwidth", "ReceiveCoilName", "TransmitCoilName", "InPlanePhaseEncodingDirection", "SliceThickness",
    "SpacingBetweenSlices",
)  # fmt: skip
NEVER_ABSENT = frozenset(
    {
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
        "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator", "PatientPosition",
        "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTrainLength", "SliceThickness",
    }
)  # fmt: skip
ALLOWED = {
    "Laterality": {"R", "L"},
    "PatientSex": {"M", "F", "O"},
    "MRAcquisitionType": {"2D", "3D"},
    "PatientIdentityRemoved": {"YES", "NO"},
    "InPlanePhaseEncodingDirection": {"ROW", "COL"},
    "PatientPosition": {"HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS", "LFP", "LFS", "RFP", "RFS",
                        "AFDR", "AFDL", "PFDR", "PFDL"},
}  # fmt: skip
POSITIVE = frozenset(
    {"RepetitionTime", "EchoTrainLength", "NumberOfAverages", "ImagingFrequency", "MagneticFieldStrength",
     "SliceThickness", "SpacingBetweenSlices", "PatientSize", "PatientWeight", "PixelBandwidth"}
)  # fmt: skip
SEVERAL = frozenset({"ScanningSequence", "SequenceVariant", "ScanOptions", "OperatorsName", "PerformingPhysicianName"})
SEQUENCES = {  # keyword -> what an item must have (PS3.3 C.7.3, C.7.2)
    "RequestAttributesSequence": ("RequestedProcedureID", "ScheduledProcedureStepID"),
    "ProcedureCodeSequence": ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
}
ITEM = (
    "RequestedProcedureID", "ScheduledProcedureStepID", "AccessionNumber", "RequestedProcedureDescription",
    "ScheduledProcedureStepDescription", "CodeValue", "CodingSchemeDesignator", "CodeMeaning",
)  # fmt: skip
EQUIPMENT = (
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
)  # fmt: skip


def carried(header: Dataset) -> Dataset:
    """The elements that every object of a derived series shares with its source, valid whatever the source was."""
    taken = Dataset()
    for keyword in (*PATIENT_AND_STUDY, *SERIES, *ACQUISITION):
        take(taken, header, keyword)
    for keyword, needed in SEQUENCES.items():
        made = [_item(item) for item in items(header, _tag(keyword)) if isinstance(item, Dataset)]
        made = [item for item in made if all(k in item for k in needed)]
        if made:
            setattr(taken, keyword, Sequence(made))
    if "BodyPartExamined" not in taken and "Laterality" not in taken:
        taken.Laterality = None  # a paired part must state it: unknown
    if "DeidentificationMethod" not in taken:
        taken.pop("PatientIdentityRemoved", None)  # YES must say how
    return taken


def scanner(header: Dataset) -> Dataset:
    """The scanner as an item of ContributingEquipmentSequence."""
    item = Dataset()
    for keyword in EQUIPMENT:
        take(item, header, keyword)
    if "Manufacturer" not in item:
        item.Manufacturer = "unknown"
    return item


def announce_character_set(dataset: Dataset, header: Dataset) -> None:
    """State the character set that the texts of `dataset` are to be written in."""
    found = character_set(header, _texts(dataset))
    if found:
        dataset.SpecificCharacterSet = found


def take(into: Dataset, header: Dataset, keyword: str) -> None:
    """Copy one element, mended; empty or left out where the source has no valid value."""
    tag = _tag(keyword)
    values = valid_values(header, tag)
    if keyword in POSITIVE:
        values = [value for value in values if float(value) > 0]
    if keyword in ALLOWED and not set(values) <= ALLOWED[keyword]:
        values = []
    if not values and keyword not in NEVER_ABSENT:
        return
    value = values if keyword in SEVERAL and len(values) > 1 else values[0] if values else None
    into[tag] = DataElement(tag, dictionary_VR(tag), value)


def _item(source: Dataset) -> Dataset:
    item = Dataset()
    for keyword in ITEM:
        if text(source, _tag(keyword)):
            take(item, source, keyword)
    return item


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in ("PN", "SH", "LO", "ST", "LT", "UT") and element.value:
            values: Iterable = element.value if isinstance(element.value, list) else [element.value]
            for value in values:  # a name is encoded part by part
                yield from re.split("[=^]", str(value)) if element.VR == "PN" else [str(value)]


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag
