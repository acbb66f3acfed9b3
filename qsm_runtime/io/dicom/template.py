"""Headers of the planes a scan was made of, for the derived series: one classic header a plane, without samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from qsm_runtime.io.acquisition import SourceObject
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.geometry import Layout, heights
from qsm_runtime.io.dicom.header import items, texts
from qsm_runtime.io.dicom.instance import CLASSIC_MR, Instance
from qsm_runtime.io.dicom.read import open_dataset
from qsm_runtime.io.dicom.text_rules import decimal

BULK_GROUPS = range(0x5000, 0x6100)  # curves and overlays
GROUPS = (0x00209113, 0x00209116, 0x00289110, 0x00189114, 0x00289132, 0x00189112, 0x00189006)
# place, pixel size, echo, window, timing and frequency of a frame
ENHANCED_ONLY = (0x52009229, 0x52009230, 0x00209221, 0x00209222, 0x00280008)
LARGEST_VALUE = 1 << 16


@dataclass(frozen=True)
class Template:
    """frames: of the first echo's magnitude, if there is one, in the order of planes; see DicomTemplate."""

    frames: tuple[Frame, ...] = field(repr=False)
    layout: Layout
    sources: tuple[tuple[str, str], ...] = field(repr=False)
    plane_sources: tuple[tuple[SourceObject, ...], ...] = field(repr=False)

    @cached_property
    def headers(self) -> tuple[Dataset, ...]:
        opened: dict[int, Dataset] = {}
        headers = []
        for frame in self.frames:
            key = id(frame.instance)
            if key not in opened:
                opened = {key: open_dataset(frame.instance, with_pixels=False)}
            headers.append(_header(opened[key], frame))
        return tuple(headers)

    def planes(self, array: np.ndarray) -> np.ndarray:
        return self.layout.planes(array)


def template_of(first_echo: Sequence[Frame], layout: Layout, every: Sequence[Frame]) -> Template:
    """The template of a scan; headers of files are read at once, while the files are sure to be there."""
    instances = {id(frame.instance): frame.instance for frame in every}
    sources = tuple((instance.sop_class, instance.sop_uid) for instance in instances.values())
    template = Template(tuple(first_echo), layout, sources, _of_planes(first_echo, every))
    if any(frame.instance.dataset is None for frame in first_echo):
        _ = template.headers
    return template


def _of_planes(first_echo: Sequence[Frame], every: Sequence[Frame]) -> tuple[tuple[SourceObject, ...], ...]:
    """For each plane the objects that show it."""
    where = heights(first_echo, first_echo[0])
    nearest = np.abs(heights(every, first_echo[0])[:, None] - where).argmin(1).tolist()
    found: list[dict[int, tuple[Instance, list[int]]]] = [{} for _ in first_echo]
    for plane, frame in zip(nearest, every, strict=True):
        found[plane].setdefault(id(frame.instance), (frame.instance, []))[1].append(frame.frame_index + 1)
    return tuple(tuple(_object(instance, numbers) for instance, numbers in of.values()) for of in found)


def _object(instance: Instance, numbers: list[int]) -> SourceObject:
    frames = tuple(sorted(numbers)) if instance.frames > 1 else ()
    return SourceObject(instance.series_uid, instance.sop_class, instance.sop_uid, frames)


def _header(dataset: Dataset, frame: Frame) -> Dataset:
    """A plane's public header: what an enhanced object keeps in functional groups stands at the top, as in MR Image."""
    header = Dataset()
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group in BULK_GROUPS or tag.group >= 0x7FE0 or tag in ENHANCED_ONLY:
            continue
        element = dataset.get_item(tag)
        if not isinstance(element.value, bytes) or len(element.value) < LARGEST_VALUE:
            header[tag] = element
    if frame.instance.sop_class == CLASSIC_MR:
        return header
    own = items(dataset, 0x52009230)[frame.frame_index]
    shared = next(iter(items(dataset, 0x52009229)), Dataset())
    for group in GROUPS:
        found = items(own, group) or items(shared, group)
        for element in found[0] if found else ():
            header[element.tag] = element
    kind = next(iter(items(own, 0x00189226) or items(shared, 0x00189226)), Dataset())
    header.ImageType = texts(kind, 0x00089007) or texts(dataset, 0x00080008)
    if frame.instance.frequency_mhz is not None:
        header.ImagingFrequency = decimal(frame.instance.frequency_mhz)
    if frame.echo_time_ms is not None:
        header.EchoTime = frame.echo_time_ms
    header.SOPClassUID = UID(CLASSIC_MR)
    return header
