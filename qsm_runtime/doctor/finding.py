"""What a check of the doctor gives."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was found of one part. note: absent, and not needed. remedy: what to do, "" where there is nothing."""

    name: str
    status: Status
    said: str
    remedy: str = ""
