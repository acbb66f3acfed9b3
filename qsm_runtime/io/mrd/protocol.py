"""Framing of the MRD (ISMRMRD 1.x) stream as FIRE and OpenRecon speak it: a uint16 id, then what the id says.

    1     CONFIG_FILE   1024 bytes, NUL-padded          5     TEXT         uint32 length, text (with or without NUL)
    2     CONFIG_TEXT   uint32 length, text             1008  ACQUISITION  340-byte header, trajectory, samples
    3     HEADER        uint32 length, XML              1022  IMAGE        198-byte header, uint64 length, Meta, pixels
    4     CLOSE         nothing                         1026  WAVEFORM     40-byte header, samples

Little-endian throughout. Every length is checked against `Limits` before anything is allocated or read: what comes in
is a stranger's. Raw data are read past and never kept. https://ismrmrd.readthedocs.io (MRD streaming protocol).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any, Protocol

import numpy as np

from qsm_runtime.errors import InputError

MIB = 2**20
CONFIG_FILE_BYTES = 1024
CHUNK = MIB  # of data read past
SLAB, ALIGNED = 8 * MIB, 64  # pixels of many images lie in one block, which the system gets back as a whole


class Id(IntEnum):
    """Message ids."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


IMAGE_HEADER = np.dtype(
    [
        ("version", "<u2"), ("data_type", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", 3), ("field_of_view", "<f4", 3), ("channels", "<u2"), ("position", "<f4", 3),
        ("read_dir", "<f4", 3), ("phase_dir", "<f4", 3), ("slice_dir", "<f4", 3),
        ("patient_table_position", "<f4", 3), ("average", "<u2"), ("slice", "<u2"), ("contrast", "<u2"),
        ("phase", "<u2"), ("repetition", "<u2"), ("set", "<u2"), ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", 3), ("image_type", "<u2"), ("image_index", "<u2"),
        ("image_series_index", "<u2"), ("user_int", "<i4", 8), ("user_float", "<f4", 8),
        ("attribute_string_len", "<u4"),
    ]
)  # fmt: skip
ACQUISITION_BYTES, WAVEFORM_BYTES = 340, 40
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u2"), 2: np.dtype("<i2"), 3: np.dtype("<u4"), 4: np.dtype("<i4"),
    5: np.dtype("<f4"), 6: np.dtype("<f8"), 7: np.dtype("<c8"), 8: np.dtype("<c16"),
}  # fmt: skip
DATA_TYPES = {dtype: code for code, dtype in DTYPES.items()}


class ProtocolError(InputError):
    """Bytes that are no MRD stream, or more of them than allowed: nothing after them can be understood."""


class Ended(ProtocolError):
    """The stream ended before its CLOSE."""


class Silent(ProtocolError):
    """Nothing came for longer than allowed."""


class Stream(Protocol):
    """A way to the other side and back."""

    def read_into(self, view: memoryview, *, between: bool) -> int:
        """Bytes put into `view`, 0 at the end. between: no message has begun, so that silence is no fault yet.

        Raises Silent after the time this stream allows, Ended where the connection broke.
        """

    def write(self, data: bytes | memoryview) -> None:
        """All of `data`. Raises Silent or Ended."""


@dataclass(frozen=True)
class Limits:
    """Most bytes of one message's part, and of the images of one study, headers and Meta included; their number."""

    text: int = MIB
    header: int = 8 * MIB
    meta: int = MIB
    image: int = 1024 * MIB
    readout: int = 256 * MIB
    study: int = 4096 * MIB
    images: int = 100_000


@dataclass(frozen=True)
class Config:
    """CONFIG_FILE (a name) or CONFIG_TEXT."""

    text: str


@dataclass(frozen=True)
class Header:
    """The XML header of the measurement."""

    text: str


@dataclass(frozen=True)
class Text:
    """Free text: parameters from the client; DBG, INF, WRN or ERR and what is to be logged from the server."""

    text: str


@dataclass(frozen=True, eq=False)
class Image:
    """header: a record of IMAGE_HEADER. meta: XML as sent. pixels: (channel, z, y, x) as sent."""

    header: np.ndarray
    meta: bytes
    pixels: np.ndarray


@dataclass(frozen=True)
class Raw:
    """Raw data that were read past: "readouts" or "waveforms"."""

    kind: str


@dataclass(frozen=True)
class Close:
    """The other side has nothing more to say."""


Message = Config | Header | Text | Image | Raw | Close


class Reader:
    """Messages one after another from a stream."""

    def __init__(self, stream: Stream, limits: Limits | None = None) -> None:
        self._stream, self._limits = stream, limits or Limits()
        self._study_bytes = self._images = 0
        self._slab = np.empty(0, np.uint8)

    def __iter__(self) -> Iterator[Message]:
        """Messages up to and with CLOSE. Raises ProtocolError, or Ended where CLOSE did not come."""
        while True:
            message = self.read()
            yield message
            if isinstance(message, Close):
                return

    def read(self) -> Message:
        """The next message. Raises ProtocolError."""
        (number,) = struct.unpack("<H", self._exactly(2, "a message", between=True))
        if number == Id.CLOSE:
            return Close()
        if number == Id.CONFIG_FILE:
            return Config(_decoded(self._exactly(CONFIG_FILE_BYTES, "CONFIG_FILE").split(b"\0", 1)[0]))
        if number == Id.CONFIG_TEXT:
            return Config(self._text("CONFIG_TEXT", self._limits.text))
        if number == Id.HEADER:
            return Header(self._text("HEADER", self._limits.header))
        if number == Id.TEXT:
            return Text(self._text("TEXT", self._limits.text))
        if number == Id.IMAGE:
            return self._image()
        if number == Id.ACQUISITION:
            header = self._exactly(ACQUISITION_BYTES, "ACQUISITION")
            samples, _, channels = struct.unpack_from("<HHH", header, 34)
            (trajectory,) = struct.unpack_from("<H", header, 176)
            self._pass_over(4 * samples * trajectory + 8 * samples * channels, "ACQUISITION")
            return Raw("readouts")
        if number == Id.WAVEFORM:
            samples, channels = struct.unpack_from("<HH", self._exactly(WAVEFORM_BYTES, "WAVEFORM"), 28)
            self._pass_over(4 * samples * channels, "WAVEFORM")
            return Raw("waveforms")
        raise ProtocolError(f"no MRD stream: message id {number} is unknown")

    def _text(self, name: str, limit: int) -> str:
        (length,) = struct.unpack("<I", self._exactly(4, name))
        _check(length, limit, name)
        return _decoded(self._exactly(length, name))

    def _image(self) -> Image:
        header = np.frombuffer(self._exactly(IMAGE_HEADER.itemsize, "IMAGE"), IMAGE_HEADER)[0]
        dtype = DTYPES.get(int(header["data_type"]))
        if dtype is None:
            raise ProtocolError(f"IMAGE: data type {header['data_type']} is none of 1 to 8")
        x, y, z = (int(n) for n in header["matrix_size"])
        shape = (int(header["channels"]), z, y, x)
        if min(shape) < 1:
            raise ProtocolError(f"IMAGE: matrix {x} x {y} x {z} of {shape[0]} channels holds nothing")
        size = prod(shape) * dtype.itemsize
        _check(size, self._limits.image, "IMAGE pixels")
        (length,) = struct.unpack("<Q", self._exactly(8, "IMAGE"))
        _check(length, self._limits.meta, "IMAGE Meta")
        self._study_bytes += size + length + IMAGE_HEADER.itemsize
        self._images += 1
        _check(self._study_bytes, self._limits.study, "the images of one study")
        if self._images > self._limits.images:
            raise ProtocolError(f"more than {self._limits.images} images: not one study")
        meta = self._exactly(length, "IMAGE Meta")
        room = self._room(size)
        self._fill(room.data, "IMAGE pixels")
        return Image(header, bytes(meta), room.view(dtype).reshape(shape))

    def _room(self, size: int) -> np.ndarray:
        if size > SLAB:
            return np.empty(size, np.uint8)
        if size > self._slab.size:
            self._slab = np.empty(SLAB, np.uint8)
        room, self._slab = self._slab[:size], self._slab[-(-size // ALIGNED) * ALIGNED :]
        return room

    def _exactly(self, count: int, what: str, *, between: bool = False) -> bytearray:
        data = bytearray(count)
        self._fill(memoryview(data), what, between=between)
        return data

    def _fill(self, view: memoryview, what: str, *, between: bool = False) -> None:
        while len(view):
            got = self._stream.read_into(view, between=between)
            if not got:
                raise Ended(f"the stream ended in {what}, before CLOSE")
            view, between = view[got:], False

    def _pass_over(self, count: int, what: str) -> None:
        _check(count, self._limits.readout, what)
        scratch = memoryview(bytearray(min(count, CHUNK)))
        while count:
            self._fill(scratch[: min(count, CHUNK)], what)
            count -= min(count, CHUNK)


def _check(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise ProtocolError(f"{what}: {size} bytes, more than the {limit} allowed; raise the limit if they are meant")


def _decoded(data: bytes | bytearray) -> str:
    return bytes(data).rstrip(b"\0").decode("utf-8", "replace")
