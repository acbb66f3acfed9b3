"""Files to headers: what is DICOM among them, and what is wrong with what cannot be used.

Only headers are read here; samples stay on disk until a scan is chosen. File names are never trusted, and never
told to anyone but the caller: they may hold names of patients.
"""

import gzip
import io
import os
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from qsm_runtime.errors import InputError
from qsm_runtime.io.dicom.frames import (
    CLASSIC_MR,
    MAX_FRAMES,
    MAX_SIDE,
    Frame,
    Instance,
    frames_of,
    no_image,
)
from qsm_runtime.io.dicom.header import MALFORMED, integer, items, number, private, text

PIXEL_DATA = 0x7FE00010
GZIP = b"\x1f\x8b"
PROBE_BYTES = 132
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
ENDINGS = ("", ".dcm", ".ima", ".img", ".gz", ".mr")  # tried first where only one DICOM file is looked for
SIEMENS_ECHO_TIMES = re.compile(rb"alTE\[([01])\]\s*=\s*(\d+)")  # us, in the protocol text
CUT_SHORT = "cut short, its last samples are missing: transfer it again"


@dataclass
class Found:
    """Planes, and what was put aside: reason -> the files (or a count, for datasets in memory)."""

    frames: list[Frame] = field(default_factory=list)
    aside: dict[str, list[str]] = field(default_factory=dict)
    copies: int = 0


def holds_dicom(folder: Path) -> bool:
    """Whether any file in the folder or below is DICOM."""
    paths = sorted(_files(folder), key=lambda p: p.suffix.lower() not in ENDINGS)
    return any(_probe(path) for path in paths)


def read_folder(folder: Path, threads: int) -> Found:
    """Headers of every DICOM file in a folder and below."""
    paths = sorted(_files(folder))
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        read = list(pool.map(_read, paths))
    names = (path.relative_to(folder).as_posix() for path in paths)
    return _collect(zip(names, read, strict=True))


def read_datasets(datasets: Sequence[Dataset]) -> Found:
    """Headers of datasets in memory; their samples stay where they are."""
    return _collect((f"dataset {i + 1}", _in_memory(dataset)) for i, dataset in enumerate(datasets))


def open_dataset(instance: Instance, *, with_pixels: bool) -> Dataset:
    """The dataset of an instance, once more. Raises InputError where it has gone or changed."""
    if instance.dataset is not None:
        return instance.dataset
    try:
        source = _bytes(instance.path) if instance.gzipped else instance.path
        return pydicom.dcmread(
            io.BytesIO(source) if isinstance(source, bytes) else source, stop_before_pixels=not with_pixels, force=True
        )
    except (OSError, zlib.error, *MALFORMED) as error:
        raise InputError(f"{instance.path}: cannot be read again ({error})") from error


def _files(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and name != "DICOMDIR":
                yield Path(parent, name)


def _probe(path: Path) -> bool:
    """Whether a file begins as DICOM does, or as a gzip file of one."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(PROBE_BYTES)
            if head[:2] == GZIP:
                stream.seek(0)
                with gzip.GzipFile(fileobj=stream) as inflated:
                    head = inflated.read(PROBE_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return _is_dicom(head)


def _is_dicom(head: bytes) -> bool:
    """A preamble, or a first element of group 2 or 8 without one."""
    return head[128:132] == b"DICM" or (head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0" and len(head) > 8)


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == GZIP else data


def _read(path: Path) -> list[Frame] | str:
    """The planes of a file, or why there is none; an empty reason for what is no DICOM."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(PROBE_BYTES)
            gzipped = head[:2] == GZIP
            if gzipped:
                data = _bytes(path)
                if not _is_dicom(data[:PROBE_BYTES]):
                    return ""
                source, size = io.BytesIO(data), len(data)
                return _parse(source, size, path, True)
            if not _is_dicom(head):
                return ""
            stream.seek(0)
            return _parse(stream, os.fstat(stream.fileno()).st_size, path, False)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "damaged or cut short gzip file: transfer it again" if ".dcm" in path.name.lower() else ""
    except OSError as error:
        return f"cannot be read ({error.strerror}): check its permissions"


def _parse(stream: io.BufferedIOBase, size: int, path: Path, gzipped: bool) -> list[Frame] | str:
    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        why = no_image(dataset)
        if why:
            return why
        syntax = text(dataset.file_meta, 0x00020010) or str(ImplicitVRLittleEndian)
        offset, length = -1, 0
        if syntax in UNCOMPRESSED:
            offset, length = _pixel_element(stream, syntax)
        elif syntax == DeflatedExplicitVRLittleEndian:
            length = size
        instance = _instance(dataset, path, None, gzipped, syntax, offset)
        damage = instance.damage
        if syntax in UNCOMPRESSED:
            needed = instance.frames * instance.rows * instance.columns * int(instance.dtype[-1])
            if offset < 0:
                return "MR object without pixel data"
            if length < needed or offset + needed > size:
                damage = CUT_SHORT
        return frames_of(dataset, _replace(instance, damage) if damage else instance)
    except MALFORMED as error:
        return f"malformed header ({type(error).__name__}): transfer it again"


def _in_memory(dataset: Dataset) -> list[Frame] | str:
    try:
        why = no_image(dataset)
        if why:
            return why
        if PIXEL_DATA not in dataset:
            return "MR object without pixel data"
        meta = getattr(dataset, "file_meta", None)
        syntax = text(meta, 0x00020010) if meta is not None else ""
        if not syntax:
            implicit, little = dataset.original_encoding
            syntax = str(ExplicitVRBigEndian) if little is False else UNCOMPRESSED[0 if implicit else 1]
        instance = _instance(dataset, None, dataset, False, syntax, 0 if syntax in UNCOMPRESSED else -1)
        needed = instance.frames * instance.rows * instance.columns * int(instance.dtype[-1])
        if syntax in UNCOMPRESSED and len(dataset[PIXEL_DATA].value or b"") < needed:
            instance = _replace(instance, CUT_SHORT)
        return frames_of(dataset, instance)
    except MALFORMED as error:
        return f"malformed header ({type(error).__name__}): send it again"


def _pixel_element(stream: io.BufferedIOBase, syntax: str) -> tuple[int, int]:
    """Offset of the first sample and length of the pixel data at the stream's position; -1 where there is none."""
    start = stream.tell()
    big = syntax == ExplicitVRBigEndian
    head = stream.read(12)
    order = ">" if big else "<"
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF):
        return -1, 0
    if syntax == ImplicitVRLittleEndian:
        return start + 8, struct.unpack("<I", head[4:8])[0]
    if head[4:6] not in (b"OW", b"OB") or len(head) < 12:
        raise ValueError("pixel data of another VR")
    return start + 12, struct.unpack(f"{order}I", head[8:12])[0]


def _instance(
    dataset: Dataset, path: Path | None, held: Dataset | None, gzipped: bool, syntax: str, offset: int
) -> Instance:
    rows, columns = (integer(dataset, tag) or 0 for tag in (0x00280010, 0x00280011))
    classic = text(dataset, 0x00080016) == CLASSIC_MR
    frames = 1 if classic else integer(dataset, 0x00280008) or 1
    allocated, stored = integer(dataset, 0x00280100) or 0, integer(dataset, 0x00280101) or 0
    high_bit = integer(dataset, 0x00280102)
    signed = integer(dataset, 0x00280103) or 0
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and 0 < frames <= MAX_FRAMES):
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


def _replace(instance: Instance, damage: str) -> Instance:
    from dataclasses import replace

    return replace(instance, damage=damage)


def _collect(read: Iterable[tuple[str, list[Frame] | str]]) -> Found:
    found = Found()
    seen: set[str] = set()
    for name, frames in read:
        if isinstance(frames, str):
            if frames:
                found.aside.setdefault(frames, []).append(name)
            continue
        uid = frames[0].instance.sop_uid
        if uid and uid in seen:
            found.copies += 1
            continue
        seen.add(uid)
        found.frames += frames
    return found
