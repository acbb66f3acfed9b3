"""How much memory a process holds and held at most; None where the system does not say."""

import os
from pathlib import Path

MIB = 1024 * 1024
_PEAK_RESET = "5"  # proc(5): clear_refs


def held_mib(pid: int) -> float | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


def reset_peak() -> None:
    """Count this process's peak from here on, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text(_PEAK_RESET)
    except OSError:  # another system, or not allowed: the peak is that of the process's life
        return


def peak_mib() -> float | None:
    """The most this process has held since the last reset."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except (OSError, ValueError, IndexError):
        return None
    return None
