"""The first bytes of a DICOM file, before the data set as it was sent."""

import struct

from qsm_runtime.io.dicom.derived import IMPLEMENTATION


def file_head(sop_class: str, uid: str, syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1), explicit little endian."""
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", sop_class.encode()),
            _element(0x0003, b"UI", uid.encode()),
            _element(0x0010, b"UI", syntax.encode()),
            _element(0x0012, b"UI", IMPLEMENTATION.encode()),
        )
    )
    return b"\0" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = struct.pack("<HL", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 2, number) + vr + length + value
