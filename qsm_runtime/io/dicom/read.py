"""Files to headers: what is DICOM among them, and what is wrong with what cannot be used.

Only headers are read here; samples stay on disk until a scan is chosen. File names are never trusted, and never
told to anyone but the caller: they may hold names of patients.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from qsm_runtime.errors import InputError
from qsm_runtime.io.dicom.frames import Frame, frames_of, no_image
from qsm_runtime.io.dicom.header import MALFORMED, text
from qsm_runtime.io.dicom.instance import Instance, instance_of

PIXEL_DATA = 0x7FE00010
GZIP = b"\x1f\x8b"
PROBE_BYTES = 132
MAX_BYTES = 1 << 32  # of an inflated file
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
ENDINGS = ("", ".dcm", ".ima", ".img", ".gz", ".mr")  # tried first where only one DICOM file is looked for
CUT_SHORT = "cut short, its last samples are missing: transfer it again"


@dataclass
class Planes:
    """Planes found so far, and what was put aside: reason -> names of the files. copies: objects met again."""

    frames: list[Frame] = field(default_factory=list)
    aside: dict[str, list[str]] = field(default_factory=dict)
    copies: int = 0
    seen: set[str] = field(default_factory=set, repr=False)

    def add(self, name: str, read: list[Frame] | str) -> None:
        """Take the planes of one object, or the reason why it has none; empty for what is no DICOM."""
        if isinstance(read, str):
            if read:
                self.aside.setdefault(read, []).append(name)
            return
        uid = read[0].instance.sop_uid
        if uid and uid in self.seen:
            self.copies += 1
            return
        self.seen.add(uid)
        self.frames += read


def holds_dicom(folder: Path) -> bool:
    """Whether any file in the folder or below is DICOM."""
    paths = sorted(_files(folder), key=lambda p: p.suffix.lower() not in ENDINGS)
    return any(_probe(path) for path in paths)


def read_folder(folder: Path, threads: int) -> Planes:
    """Headers of every DICOM file in a folder and below."""
    paths = sorted(_files(folder))
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        read = list(pool.map(read_file, paths))
    planes = Planes()
    for path, frames in zip(paths, read, strict=True):
        planes.add(path.relative_to(folder).as_posix(), frames)
    return planes


def open_dataset(instance: Instance, *, with_pixels: bool) -> Dataset:
    """The dataset of an instance, once more. Raises InputError where it has gone or changed."""
    if instance.dataset is not None:
        return instance.dataset
    path = instance.path or Path()
    try:
        source = io.BytesIO(_bytes(path)) if instance.gzipped else path
        return pydicom.dcmread(source, stop_before_pixels=not with_pixels, force=True)
    except MALFORMED as error:
        raise InputError(f"{instance}: its file cannot be read again; is it still being moved?") from error


def inflated(instance: Instance) -> bytes:
    """All bytes of a gzipped file, once more. Raises InputError where it has gone or changed."""
    try:
        data = _bytes(instance.path) if instance.path is not None else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{instance}: its file cannot be read again; is it still being moved?") from error
    if len(data) < instance.offset + instance.frames * instance.plane_bytes:
        raise InputError(f"{instance}: its file became shorter while it was read; transfer it again")
    return data


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
    with gzip.open(path) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise EOFError("larger than any image object")
    return data


def read_file(path: Path) -> list[Frame] | str:
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
        instance = instance_of(dataset, path, None, gzipped, syntax, offset)
        damage = instance.damage
        if syntax in UNCOMPRESSED:
            needed = instance.frames * instance.plane_bytes
            if offset < 0:
                return "MR object without pixel data"
            if length < needed or offset + needed > size:
                damage = CUT_SHORT
        return frames_of(dataset, replace(instance, damage=damage) if damage else instance)
    except MALFORMED as error:
        return f"malformed header ({type(error).__name__}): transfer it again"


def read_dataset(dataset: Dataset) -> list[Frame] | str:
    """The planes of a dataset in memory, or why there is none; its samples stay where they are."""
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
        instance = instance_of(dataset, None, dataset, False, syntax, 0 if syntax in UNCOMPRESSED else -1)
        needed = instance.frames * instance.plane_bytes
        if syntax in UNCOMPRESSED and len(dataset[PIXEL_DATA].value or b"") < needed:
            instance = replace(instance, damage=CUT_SHORT)
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
