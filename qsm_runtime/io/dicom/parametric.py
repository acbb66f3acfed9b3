"""A map as one Parametric Map object (PS3.3 A.75): float32 values, nothing rounded, for readers that know the class.

Written with highdicom, an optional package. Archives and viewers that take only the image classes of old refuse the
class: MR Image objects (write) are the rule and this is the choice.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from qsm_runtime.errors import OutputError, UsageError
from qsm_runtime.io.acquisition import Acquisition, SourceObject
from qsm_runtime.io.dicom.carried import PATIENT_AND_STUDY, announce_character_set
from qsm_runtime.io.dicom.derived import DERIVATION, coded, made, plane_header, referenced, series_header
from qsm_runtime.io.dicom.quantities import QUANTITIES, Code
from qsm_runtime.io.dicom.text_rules import clipped
from qsm_runtime.io.dicom.write import check_kinds, template_of
from qsm_runtime.io.output import KINDS, PACKAGE

try:
    import highdicom as hd
except ImportError as error:
    raise UsageError("a Parametric Map needs highdicom: pip install highdicom, or write MR images") from error

SOURCE_OF_PROCESSING: Code = ("121322", "DCM", "Source image for image processing operation")
CARRIED = (*PATIENT_AND_STUDY, "FrameOfReferenceUID", "PositionReferenceIndicator", "ProtocolName", "BodyPartExamined",
           "Laterality", "InstitutionName", "AcquisitionDate", "AcquisitionTime", "TimezoneOffsetFromUTC")  # fmt: skip
OURS = ("SeriesDescription", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "InstanceCreationDate",
        "InstanceCreationTime", "ImageComments", "ContributingEquipmentSequence", "SpecificCharacterSet")  # fmt: skip


def parametric_maps(
    acquisition: Acquisition,
    maps: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    *,
    warnings: Sequence[str] = (),
    late: bool = False,
) -> dict[str, Dataset]:
    """One multi-frame object for each map, each a series of its own; arguments and errors as in derived_series."""
    template = template_of(acquisition)
    check_kinds(maps)
    how = made(record, [*acquisition.warnings, *warnings], late)
    found = {}
    for index, (kind, array) in enumerate(maps.items()):
        acquisition.scan.grid.check(array, kind)
        if not np.isfinite(array).all():
            raise OutputError(f"{kind}: the map holds values that are not finite; nothing was written")
        quantity = QUANTITIES[kind]
        shared = series_header(template, quantity, 50 + index, how, acquisition.scan.b0_tesla)
        announce_character_set(shared, template.headers[0])
        planes = np.ascontiguousarray(template.planes(array), np.float32)
        sources = [
            plane_header(shared, header, objects, number)
            for number, (header, objects) in enumerate(zip(template.headers, template.plane_sources, strict=True), 1)
        ]
        found[kind] = _object(kind, planes, shared, sources, template.plane_sources)
    return found


def encoded(dataset: Dataset) -> bytes:
    """The bytes of a file."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _object(
    kind: str,
    planes: np.ndarray,
    shared: Dataset,
    sources: Sequence[Dataset],
    objects: Sequence[Sequence[SourceObject]],
) -> Dataset:
    quantity = QUANTITIES[kind]
    centre, width = quantity.window_of(planes)
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=clipped(quantity.label, "SH"),
        lut_explanation=clipped(KINDS[kind].description, "LO"),
        unit=DicomCode(*quantity.unit),
        value_range=(float(planes.min()), float(planes.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=DicomCode(*quantity.concept),
    )
    made_map = hd.pm.ParametricMap(
        source_images=list(sources),
        pixel_array=planes,
        series_instance_uid=shared.SeriesInstanceUID,
        series_number=int(shared.SeriesNumber),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=PACKAGE,
        manufacturer_model_name=PACKAGE,
        software_versions=shared.SoftwareVersions,
        device_serial_number="0",
        contains_recognizable_visual_features=kind == "swi",
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(centre, width, voi_lut_function="LINEAR_EXACT")],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        content_label="QSM",
        content_description=clipped(KINDS[kind].description, "LO"),
    )
    for keyword in (*CARRIED, *OURS):
        if keyword in shared:
            made_map[keyword] = shared[keyword]
        elif keyword in made_map:
            del made_map[keyword]
    made_map.Modality = "MR"
    _refer(made_map, sources, objects)
    return made_map


def _refer(made_map: Dataset, planes: Sequence[Dataset], objects: Sequence[Sequence[SourceObject]]) -> None:
    """References to the images themselves, of every echo, for each frame (in whatever order) and once for all."""
    places = np.array([plane.ImagePositionPatient for plane in planes], float)
    for frame in made_map.PerFrameFunctionalGroupsSequence:
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        item = Dataset()
        item.DerivationCodeSequence = coded(DERIVATION)
        nearest = int(np.abs(places - place).sum(1).argmin())
        item.SourceImageSequence = Items([_with_purpose(referenced(one)) for one in objects[nearest]])
        frame.DerivationImageSequence = Items([item])
    by_series: dict[str, dict[str, Dataset]] = {}
    for one in (one for own in objects for one in own):
        instance = Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = one.sop_class, one.sop_uid
        by_series.setdefault(one.series_uid, {})[one.sop_uid] = instance
    series = []
    for uid, instances in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = Items(list(instances.values()))
        series.append(item)
    made_map.ReferencedSeriesSequence = Items(series)


def _with_purpose(item: Dataset) -> Dataset:
    item.PurposeOfReferenceCodeSequence = coded(SOURCE_OF_PROCESSING)
    return item
