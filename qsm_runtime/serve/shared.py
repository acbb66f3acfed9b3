"""Arrays between two processes in memory of no name: it is gone when the last of them is, however they end.

An object is pickled with its arrays left out (pickle protocol 5); the arrays are written to an anonymous file in
memory, whose descriptor travels beside the message, and are seen by the receiver without a copy.
"""

import mmap
import os
import pickle
import sys
import tempfile
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

ALIGN = 64  # bytes: a cache line, and what the FFT's vector instructions ask for
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # Linux: all pages at once instead of one fault each


class Region:
    """`size` bytes that another process may see too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def new(cls, size: int) -> "Region":
        """Zeros. Raises OSError where the system has no room."""
        if sys.platform == "linux":
            descriptor = os.memfd_create("qsm")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        region = cls(descriptor)
        os.ftruncate(descriptor, max(size, 1))
        return region

    def write(self, offset: int, array: np.ndarray) -> None:
        """The bytes of a contiguous array, without mapping the region here."""
        left = array.reshape(-1).view(np.uint8).data
        while left:
            done = os.pwrite(self._descriptor, left, offset)
            left, offset = left[done:], offset + done

    def map(self) -> memoryview:
        """The region's bytes, writable; they stay for as long as anything refers to them."""
        flags = mmap.MAP_SHARED | _POPULATE
        return memoryview(mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size, flags))

    def send(self, connection: Connection, pid: int) -> None:
        """To process `pid` at the other end of `connection`."""
        reduction.send_handle(connection, self._descriptor, pid)

    @classmethod
    def receive(cls, connection: Connection) -> "Region":
        return cls(reduction.recv_handle(connection))

    def close(self) -> None:
        """Needs no more mapping here: what is mapped stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class Packed:
    """An object in a region: what is sent is `text` and the region."""

    def __init__(self, thing: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        raw = [buffer.raw() for buffer in buffers]
        places, end = [], 0
        for part in raw:
            places.append((end, part.nbytes))
            end += -(-part.nbytes // ALIGN) * ALIGN
        self.text = pickle.dumps((pickled, places))
        self.region = Region.new(end)
        for (offset, _), part in zip(places, raw, strict=True):
            self.region.write(offset, np.frombuffer(part, np.uint8))


def unpacked(text: bytes, region: Region) -> Any:
    """The object that was packed, its arrays views of the region."""
    pickled, places = pickle.loads(text)
    whole = region.map()
    return pickle.loads(pickled, buffers=[whole[offset : offset + size] for offset, size in places])
