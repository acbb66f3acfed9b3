"""What goes back: the originals as they came, and susceptibility in place of the slices it was made from.

A map keeps the header of the image whose place it takes and what its Meta attributes say of patient, place and
sequence. What would have a console take it for that image goes: identities, references, the console's own header of
it, its scale and window.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.io.mrd.described import KEEP_GEOMETRY, Meta, keeping_geometry, meta_xml
from qsm_runtime.io.mrd.encodings import ENCODINGS, PPB_PER_PPM, DataType, Encoding
from qsm_runtime.io.mrd.planes import Plane, Received
from qsm_runtime.io.mrd.protocol import DATA_TYPES, Image
from qsm_runtime.io.mrd.read import Study

MAGNITUDE = 1  # the image type of what a console shows by its pixels
OWN_NAME = "QSM"
DROPPED = re.compile(
    r"IceMiniHead|ImageTypeValue3|ReferencedGSPS.*|ReferencedImageSequence.*|MFInstanceNumber|MultiFrameSOPInstanceUID|"
    r"PSMultiFrameSOPInstanceUID|PSSeriesInstanceUID|DicomEngineDimString|SOPInstanceUID|SeriesInstanceUID|"
    r"SeriesNumberRangeNameUID|PixelPadding.*|Rescale.*|VOILUTFunction|Window(Center|Width)|Units|EchoTime|"
    r"Actual3DIma(ge)?PartNumber|AnatomicalPartitionNo"
)
LARGEST_INDEX = 65535


@dataclass(frozen=True)
class Said:
    """What a map says of itself. addition: to the series' name. comment: for the image comments."""

    addition: str
    comment: str
    fields: dict[str, str]


def originals(received: Iterable[Received]) -> Iterator[Image]:
    """Every image as it came; its Meta attributes ask for its geometry to be kept."""
    for one in received:
        yield Image(one.image.header, keeping_geometry(one.image.meta), one.image.pixels)


def unused_series(received: Sequence[Received], taken: Iterable[int] = ()) -> int:
    """A series index that no image has, the first above all of them where there is room."""
    used = {one.series for one in received} | set(taken)
    after = max(used, default=0) + 1
    return after if after <= LARGEST_INDEX else next(i for i in range(1, LARGEST_INDEX + 1) if i not in used)


def susceptibility_images(
    study: Study, chi_ppm: np.ndarray, data_type: DataType, series_index: int, window_ppb: float, said: Said
) -> Iterator[Image]:
    """A map (x, y, z) as images, one for each image of the template, in order along the normal."""
    encoding = ENCODINGS[data_type]
    series_uid = new_uid()
    volume = study.planes(chi_ppm)
    images = _by_image(study.template)
    for index, (source, planes) in enumerate(images):
        pixels = np.empty((1, *source.image.pixels.shape[1:]), encoding.dtype)
        for number, plane in planes:
            pixels[0, plane.depth] = encoding.stored(volume[number])
        header = source.image.header.copy()
        header["data_type"] = DATA_TYPES[encoding.dtype]
        header["image_type"] = MAGNITUDE
        header["contrast"] = 0
        header["image_series_index"] = series_index
        header["image_index"] = index + 1
        meta = _meta(source, planes[0][1], encoding, window_ppb, said)
        meta["SeriesInstanceUID"] = [series_uid]
        meta["NumberInSeries"] = [str(index + 1)]
        meta["ImagesInAcquisition"] = [str(len(images))]
        yield Image(header, meta_xml(meta), pixels)


def _by_image(template: Sequence[Plane]) -> list[tuple[Received, list[tuple[int, Plane]]]]:
    """The images of the template, each with the numbers and planes of its slices."""
    found: dict[int, tuple[Received, list[tuple[int, Plane]]]] = {}
    for number, plane in enumerate(template):
        found.setdefault(plane.source.number, (plane.source, []))[1].append((number, plane))
    return list(found.values())


def _meta(source: Received, plane: Plane, encoding: Encoding, window_ppb: float, said: Said) -> Meta:
    meta = {name: values for name, values in source.meta.items() if not DROPPED.fullmatch(name)}
    image_type = f"DERIVED\\PRIMARY\\M\\{OWN_NAME}"
    window = window_ppb * encoding.per_ppm / PPB_PER_PPM
    stated: dict[str, object] = {
        "DataRole": "Quantitative",  # pixels are left as they are
        KEEP_GEOMETRY: 1,
        "ImageProcessingHistory": OWN_NAME,
        "ImageType": image_type,
        "DicomImageType": image_type,
        "ImageTypeValue4": OWN_NAME,
        "ComplexImageComponent": "MAGNITUDE",
        "SequenceDescriptionAdditional": said.addition,
        "ImageComments": said.comment,
        "ImageComment": said.comment,
        "RescaleSlope": f"{encoding.slope:g}",
        "RescaleIntercept": f"{encoding.intercept:g}",
        "RescaleType": "US",
        "Units": encoding.unit,
        "WindowCenter": 0,
        "WindowWidth": f"{window:g}",
        "SOPInstanceUID": new_uid(),
        **said.fields,
    }
    meta |= {name: [str(value)] for name, value in stated.items()}
    for name, values in (("ImageRowDir", plane.orientation[:3]), ("ImageColumnDir", plane.orientation[3:])):
        meta[name] = [f"{value:.18f}" for value in values]
    return meta


def new_uid() -> str:
    """A UID that nothing else has (2.25. and a random UUID, PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"
