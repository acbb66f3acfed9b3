"""A process with its children: who they are, and the CPU time that they have used. Linux; elsewhere little is told."""

import os
from pathlib import Path

UTIME, CSTIME = 11, 14  # fields of /proc/PID/stat after the name: own user, own system, waited-for children's two


def family(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # ended meanwhile
            continue
    return found


def children_s() -> float:
    """CPU seconds of this process's children and theirs: of those that ended, and so far of those that run."""
    ended = os.times()
    running = sum(map(_ticks, family(os.getpid())[1:]))
    return ended.children_user + ended.children_system + running / _TICKS_PER_S


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(n) for n in fields[UTIME : CSTIME + 1])


_TICKS_PER_S: int = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
