"""What one file, or dataset in memory, says of all its frames, and where its samples are."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from qsm_runtime.io.dicom.header import integer, items, number, private, text

CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
MAX_SIDE = 4096  # rows or columns beyond this are a damaged header
MAX_FRAMES = 1 << 16
MAX_SAMPLES = 1 << 31  # of one object
SIEMENS_ECHO_TIMES = re.compile(rb"alTE\[([01])\]\s*=\s*(\d+)")  # us, in the protocol text


@dataclass(frozen=True, slots=True)
class Instance:
    """One object's record.

    offset: byte of the first sample in the (inflated) file; -1 where a decoder has to find it.
    damage: why the samples cannot be read, empty where they can. slices_stated, echoes_stated: how many the header
    announces. difference_ms: the two echo times of a sequence that stores their phase difference.
    """

    path: Path | None
    dataset: Dataset | None
    gzipped: bool
    syntax: str
    offset: int
    damage: str
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    protocol: str
    instance_number: int | None
    acquired: str
    manufacturer: str
    frame_of_reference: str
    frequency_mhz: float | None
    field_tesla: float | None
    acquisition_type: str
    difference_ms: tuple[float, ...]
    echoes_stated: int | None
    slices_stated: int | None
    rows: int
    columns: int
    frames: int
    dtype: str
    bits_stored: int

    @property
    def plane_bytes(self) -> int:
        return self.rows * self.columns * int(self.dtype[-1])

    def __str__(self) -> str:
        number = "" if self.instance_number is None else f" {self.instance_number}"
        return f"image{number}"


def instance_of(
    dataset: Dataset, path: Path | None, held: Dataset | None, gzipped: bool, syntax: str, offset: int
) -> Instance:
    """The record of a file's header, or of a dataset held in memory. Raises one of MALFORMED."""
    rows, columns = (integer(dataset, tag) or 0 for tag in (0x00280010, 0x00280011))
    classic = text(dataset, 0x00080016) == CLASSIC_MR
    frames = 1 if classic else integer(dataset, 0x00280008) or 1
    allocated, stored = integer(dataset, 0x00280100) or 0, integer(dataset, 0x00280101) or 0
    high_bit = integer(dataset, 0x00280102)
    signed = integer(dataset, 0x00280103) or 0
    samples = frames * rows * columns
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and 0 < frames <= MAX_FRAMES and samples <= MAX_SAMPLES):
        raise ValueError("matrix out of range")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or signed not in (0, 1):
        raise ValueError("sample format out of range")
    damage = "" if high_bit in (None, stored - 1) else "samples are not in the low bits: export it again"
    shared = next(iter(items(dataset, 0x52009229)), Dataset())
    modifier = next(iter(items(shared, 0x00189006)), Dataset())
    frequency = number(dataset, 0x00180084) or number(modifier, 0x00189098)
    philips_echoes = private(dataset, 0x2001, "Philips Imaging DD 001", 0x14)
    philips_slices = private(dataset, 0x2001, "Philips Imaging DD 001", 0x18)
    manufacturer = text(dataset, 0x00080070)
    return Instance(
        path=path,
        dataset=held,
        gzipped=gzipped,
        syntax=syntax,
        offset=offset,
        damage=damage,
        sop_class=text(dataset, 0x00080016),
        sop_uid=text(dataset, 0x00080018),
        study_uid=text(dataset, 0x0020000D),
        series_uid=text(dataset, 0x0020000E),
        series_number=integer(dataset, 0x00200011),
        description=text(dataset, 0x0008103E) or text(dataset, 0x00181030),
        protocol=text(dataset, 0x00181030),
        instance_number=integer(dataset, 0x00200013),
        acquired=text(dataset, 0x0008002A) or text(dataset, 0x00080022) + text(dataset, 0x00080032),
        manufacturer=manufacturer,
        frame_of_reference=text(dataset, 0x00200052),
        frequency_mhz=frequency if frequency and frequency > 0 else None,
        field_tesla=number(dataset, 0x00180087) or None,
        acquisition_type=text(dataset, 0x00180023),
        difference_ms=_difference_ms(dataset, shared),
        echoes_stated=_echoes_stated(dataset, manufacturer, philips_echoes),
        slices_stated=None if philips_slices is None else int(number(dataset, philips_slices, "SL") or 0) or None,
        rows=rows,
        columns=columns,
        frames=frames,
        dtype=f"{'>' if syntax == ExplicitVRBigEndian else '<'}{'ui'[signed]}{allocated // 8}",
        bits_stored=stored,
    )


def _echoes_stated(dataset: Dataset, manufacturer: str, philips: int | None) -> int | None:
    """Echoes the sequence made, where the header says so. Siemens counts them in the echo train unless it is EPI's."""
    if philips is not None:
        return int(number(dataset, philips, "SL") or 0) or None
    if "siemens" in manufacturer.lower() and "EP" not in text(dataset, 0x00180020):
        return integer(dataset, 0x00180091) or None
    return None


def _difference_ms(dataset: Dataset, shared: Dataset) -> tuple[float, ...]:
    """Echo times of Siemens' field mapping sequence, whose one phase is a difference; empty for any other."""
    name = text(dataset, 0x00180024) or text(dataset, 0x00189005)
    if "fm2d" not in name and "fm3d" not in name:
        return ()
    sources = [(dataset, private(dataset, 0x0029, "SIEMENS CSA HEADER", 0x20))]
    for own in items(shared, 0x002110FE):
        sources.append((own, private(own, 0x0021, "SIEMENS MR SDS 01", 0x19)))
    for source, tag in sources:
        value = source[tag].value if tag is not None else None
        if isinstance(value, bytes):
            times = {int(i): int(us) / 1000 for i, us in SIEMENS_ECHO_TIMES.findall(value)}
            if len(times) == 2:
                return times[0], times[1]
    return (0.0, 0.0)  # a difference of echoes that the header does not name
