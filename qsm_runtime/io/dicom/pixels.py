"""Samples of chosen planes, read straight into their place: no array is built for a file, none is copied twice."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from qsm_runtime.errors import InputError
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.header import MALFORMED
from qsm_runtime.io.dicom.instance import Instance
from qsm_runtime.io.dicom.read import PIXEL_DATA, UNCOMPRESSED, inflated, open_dataset

REMEDY = (
    "install pylibjpeg with its plugins (pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg), or decompress"
)


def decoder_missing(syntax: str) -> str:
    """Why samples in a transfer syntax cannot be decoded here, empty where they can."""
    if syntax in UNCOMPRESSED or syntax == DeflatedExplicitVRLittleEndian:
        return ""
    name = UID(syntax).name
    try:
        if get_decoder(UID(syntax)).is_available:
            return ""
    except NotImplementedError:
        return f"transfer syntax {name} is unknown; export uncompressed images (Explicit VR Little Endian)"
    return f"compressed as {name}, which cannot be decoded here; {REMEDY} the files (dcmdjpeg, gdcmconv --raw)"


def read_planes(frames: Sequence[Frame], out: np.ndarray, threads: int) -> None:
    """Fill `out` (plane, row, column), of the frames' stored type, with their samples in the order given.

    Raises InputError naming the image where samples are missing or cannot be decoded.
    """
    by_instance = [
        list(group)
        for _, group in groupby(
            sorted(range(len(frames)), key=lambda i: (id(frames[i].instance), frames[i].frame_index)),
            key=lambda i: id(frames[i].instance),
        )
    ]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        list(pool.map(lambda chosen: _fill([frames[i] for i in chosen], chosen, out), by_instance))


def _fill(frames: Sequence[Frame], places: Sequence[int], out: np.ndarray) -> None:
    """Planes of one instance into their places."""
    instance = frames[0].instance
    if instance.damage:
        raise InputError(f"{instance}: {instance.damage}")
    if instance.syntax not in UNCOMPRESSED:
        decoded = _decoded(instance)
        for frame, place in zip(frames, places, strict=True):
            out[place] = decoded[frame.frame_index]
        return
    size = instance.plane_bytes
    if instance.dataset is not None or instance.gzipped:
        data = _buffer(instance)
        for frame, place in zip(frames, places, strict=True):
            start = (0 if instance.dataset is not None else instance.offset) + frame.frame_index * size
            count = instance.rows * instance.columns
            out[place] = np.frombuffer(data, instance.dtype, count, start).reshape(out.shape[1:])
            _low_bits(out[place], instance)
        return
    try:
        with open(_path(instance), "rb", buffering=0) as stream:
            for frame, place in zip(frames, places, strict=True):
                stream.seek(instance.offset + frame.frame_index * size)
                view = memoryview(out[place]).cast("B")
                read = 0
                while read < size:
                    got = stream.readinto(view[read:])
                    if not got:
                        raise InputError(f"{instance}: the file became shorter while it was read; transfer it again")
                    read += got
                _low_bits(out[place], instance)
    except OSError as error:
        raise InputError(f"{instance}: its file cannot be read ({error.strerror}); is it still being moved?") from error


def _path(instance: Instance) -> Path:
    if instance.path is None:
        raise InputError(f"{instance}: no file")
    return instance.path


def _buffer(instance: Instance) -> bytes:
    if instance.dataset is not None:
        return instance.dataset[PIXEL_DATA].value
    return inflated(instance)


def _decoded(instance: Instance) -> np.ndarray:
    """Frames (frame, row, column) of a compressed instance."""
    missing = decoder_missing(instance.syntax)
    if missing:
        raise InputError(f"{instance}: {missing}")
    dataset: Dataset = open_dataset(instance, with_pixels=True)
    try:
        array = dataset.pixel_array
    except MALFORMED as error:
        raise InputError(f"{instance}: samples cannot be decoded ({type(error).__name__}); export it again") from error
    shape = (instance.frames, instance.rows, instance.columns)
    if array.size != np.prod(shape):
        raise InputError(f"{instance}: holds {array.shape} samples, its header says {shape}; export it again")
    return array.reshape(shape)


def _low_bits(plane: np.ndarray, instance: Instance) -> None:
    """Drop what is stored above the sample's bits (overlays of old), or extend its sign, in place."""
    spare = plane.dtype.itemsize * 8 - instance.bits_stored
    if spare == 0:
        return
    if plane.dtype.kind == "i":
        np.left_shift(plane, spare, out=plane)
        np.right_shift(plane, spare, out=plane)
    else:
        np.bitwise_and(plane, plane.dtype.type((1 << instance.bits_stored) - 1), out=plane)
