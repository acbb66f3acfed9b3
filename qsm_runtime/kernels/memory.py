"""Large arrays handed back to the system as soon as they are freed.

glibc's malloc raises the size from which it maps memory apart to that of the largest block freed so far, up to 32 MB:
just the size of the volumes here. From then on they share one heap, in whose gaps the next volume seldom fits, and
the peak grows by several of them. Setting the size once keeps it. Other systems' allocators do not need it.
"""

import ctypes
import sys

MAPPED_BYTES = 2**22  # NumPy asks for huge pages from here on, so that fresh memory costs little
_M_MMAP_THRESHOLD = -3  # malloc.h

if sys.platform == "linux":
    _mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
