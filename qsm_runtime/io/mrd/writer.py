"""Messages out: the other half of qsm_runtime.io.mrd.protocol."""

import struct

import numpy as np

from qsm_runtime.io.mrd.protocol import CONFIG_FILE_BYTES, Id, Image, Stream


def write_config(stream: Stream, name: str) -> None:
    padded = name.encode()[: CONFIG_FILE_BYTES - 1].ljust(CONFIG_FILE_BYTES, b"\0")
    stream.write(struct.pack("<H", Id.CONFIG_FILE) + padded)


def write_header(stream: Stream, xml: str) -> None:
    data = xml.encode()
    stream.write(struct.pack("<HI", Id.HEADER, len(data)) + data)


def write_text(stream: Stream, text: str) -> None:
    """TEXT, NUL-terminated as the deployed servers do."""
    data = text.encode() + b"\0"
    stream.write(struct.pack("<HI", Id.TEXT, len(data)) + data)


def write_image(stream: Stream, image: Image) -> None:
    header = image.header.copy()
    header["attribute_string_len"] = len(image.meta)
    head = struct.pack("<H", Id.IMAGE) + header.tobytes() + struct.pack("<Q", len(image.meta)) + image.meta
    stream.write(head)
    stream.write(np.ascontiguousarray(image.pixels).reshape(-1).view(np.uint8).data)


def write_close(stream: Stream) -> None:
    stream.write(struct.pack("<H", Id.CLOSE))
