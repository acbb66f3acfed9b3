"""What commands print: results on standard output (JSON: one document and nothing else), the rest on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 1024 * 1024


def print_json(fields: Mapping[str, Any]) -> None:
    """The command's one JSON document, with the version."""
    document = {"version": version("qsm_runtime"), **fields}
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def print_table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Columns aligned, the last one left as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print((indent + "  ".join([*cells, row[-1]])).rstrip())


def peak_memory_mib() -> float | None:
    """Most memory this process has held; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / MIB if sys.platform == "darwin" else used / 1024, 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.tolist()  # numpy's
