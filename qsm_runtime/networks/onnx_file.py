"""As much of the ONNX format (protocol buffers) as is needed without its package: is a file whole, its opset, and a
tiny model to try a provider with.

https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from collections.abc import Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_IR, MODEL_GRAPH, MODEL_OPSETS = 1, 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
FLOAT = 1  # TensorProto.DataType
TINY_SHAPE = (6, 5, 7)


def truncated(data: bytes) -> bool:
    """Whether the file ends before the parts that it announces."""
    try:
        return MODEL_GRAPH not in [number for number, _ in _fields(data)]
    except (ValueError, struct.error):
        return True


def opset(data: bytes) -> int | None:
    """Version of the default operator set; None where the file does not say."""
    for number, value in _fields(data):
        if number == MODEL_OPSETS and isinstance(value, bytes):
            parts = dict(_fields(value))
            if not parts.get(OPSET_DOMAIN) and isinstance(version := parts.get(OPSET_VERSION), int):
                return version
    return None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("ends early")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("ends early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return value, at


def tiny_kernel() -> np.ndarray:
    """float32 (1, 1, 3, 3, 3): values that half precision cannot hold."""
    return (np.sin(np.arange(27.0)) / 3).astype(np.float32).reshape(1, 1, 3, 3, 3)


def tiny_model() -> bytes:
    """y = relu(convolution(x) with tiny_kernel), x and y float32 (1, 1, x, y, z)."""
    kernel = tiny_kernel()
    weight = b"".join(_varint(1, n) for n in kernel.shape) + _varint(2, FLOAT) + _text(8, "w")
    weight += _bytes(9, kernel.astype("<f4").tobytes())
    pads = _text(1, "pads") + _varint(20, 7) + b"".join(_varint(8, 1) for _ in range(6))
    convolution = _text(1, "x") + _text(1, "w") + _text(2, "c") + _text(4, "Conv") + _bytes(5, pads)
    relu = _text(1, "c") + _text(2, "y") + _text(4, "Relu")
    graph = _bytes(1, convolution) + _bytes(1, relu) + _text(2, "tiny") + _bytes(5, weight)
    graph += _bytes(11, _volume("x")) + _bytes(12, _volume("y"))
    return _varint(MODEL_IR, 8) + _bytes(MODEL_GRAPH, graph) + _bytes(MODEL_OPSETS, _varint(OPSET_VERSION, 17))


def _volume(name: str) -> bytes:
    dims = b"".join(_bytes(1, _varint(1, n)) for n in (1, 1, *TINY_SHAPE))
    tensor = _varint(1, FLOAT) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _varint(number: int, value: int) -> bytes:
    return _raw_varint(number << 3 | VARINT) + _raw_varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _raw_varint(number << 3 | BYTES) + _raw_varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _raw_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
