"""The sending side of DICOM (C-STORE and C-ECHO as a client): files to an application entity, one by one."""

import logging
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from qsm_runtime.errors import InputError, QsmError, UsageError
from qsm_runtime.io.dicom.header import MALFORMED, text

MAX_CONTEXTS = 128  # of one association (PS3.8)
PENDING_S = 30.0
MAX_UNIT = 1 << 17
KIND_REFUSED = 0x0122  # SOP class not supported
WARNINGS = range(0xB000, 0xC000)
DESTINATION = re.compile(r"(?P<ae>[^@\\]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]]+):(?P<port>\d{1,5})")

_config.LOG_HANDLER_LEVEL = "none"
_config.STORE_SEND_CHUNKED_DATASET = True  # files go as they are, never decoded
for _name in ("pynetdicom", "pynetdicom.transport"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class SendError(QsmError, OSError):
    """A peer that cannot be reached, will not talk to us, or went away."""

    exit_code = 5


@dataclass(frozen=True)
class Destination:
    """An application entity that takes objects."""

    ae: str
    host: str
    port: int

    @classmethod
    def parse(cls, words: str) -> "Destination":
        """From AE@host:port. Raises UsageError."""
        found = DESTINATION.fullmatch(words.strip())
        if found is None or not found["ae"].strip() or not 0 < int(found["port"]) < 65536:
            raise UsageError(f"a destination is AE@host:port, such as ARCHIVE@10.0.0.5:104; got {words!r}")
        return cls(found["ae"].strip(), found["host"].strip("[]"), int(found["port"]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae}@{host}:{self.port}"


@dataclass(frozen=True)
class Object:
    """A file to send, by its file meta information."""

    path: Path
    sop_class: str
    syntax: str


def object_of(path: Path) -> Object | None:
    """None where a file is no DICOM file."""
    try:
        with open(path, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
        meta, _ = split_dataset(path)
        found = Object(path, text(meta, 0x00020002), text(meta, 0x00020010))
    except MALFORMED:
        return None
    return found if found.sop_class and found.syntax and text(meta, 0x00020003) else None


def send(
    objects: Sequence[Object],
    to: Destination,
    calling: str,
    sent: Callable[[Path, int], None],
    wait_s: float = PENDING_S,
) -> None:
    """Send objects in the order given, as their files hold them; more kinds than one association takes need several.

    sent: called at once with each object's path and the status the peer answered: 0, it has it; KIND_REFUSED, it does
    not take objects of this kind or transfer syntax. Raises SendError where the peer is not there, refuses the
    association or goes away.
    """
    kinds = list(dict.fromkeys((one.sop_class, one.syntax) for one in objects))
    for start in range(0, len(kinds), MAX_CONTEXTS):
        chosen = kinds[start : start + MAX_CONTEXTS]
        _send([one for one in objects if (one.sop_class, one.syntax) in chosen], chosen, to, calling, sent, wait_s)


def echo(to: Destination, calling: str, wait_s: float = PENDING_S) -> None:
    """C-ECHO. Raises SendError where it is not answered."""
    assoc = _associate(to, calling, [(str(Verification), "")], wait_s)
    status = assoc.send_c_echo()
    if not status or status.Status != 0:
        raise SendError(f"{to} does not answer C-ECHO")
    assoc.release()


def objects_in(folder: Path) -> list[Object]:
    """DICOM files in a folder and below, by name. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths: Iterable[Path] = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    found = [one for path in paths if (one := object_of(path)) is not None]
    if not found:
        raise InputError(f"{folder}: no DICOM files (with preamble and file meta information) to send")
    return found


def _send(
    objects: Sequence[Object],
    kinds: Sequence[tuple[str, str]],
    to: Destination,
    calling: str,
    sent: Callable[[Path, int], None],
    wait_s: float,
) -> None:
    assoc = _associate(to, calling, kinds, wait_s)
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in assoc.accepted_contexts}
    try:
        for number, one in enumerate(objects):
            if (one.sop_class, one.syntax) not in accepted:
                sent(one.path, KIND_REFUSED)
                continue
            if not assoc.is_established:
                raise SendError(f"{to} ended the association after {number} of {len(objects)} objects")
            answer = assoc.send_c_store(one.path, msg_id=number % 65535 + 1)
            if not answer:
                raise SendError(f"{to} went away after {number} of {len(objects)} objects")
            status = int(answer.Status)
            sent(one.path, 0 if status in WARNINGS else status)
    finally:
        if assoc.is_established:
            assoc.release()


def _associate(to: Destination, calling: str, kinds: Sequence[tuple[str, str]], wait_s: float) -> Any:
    client = AE(ae_title=calling)
    client.acse_timeout = client.dimse_timeout = client.network_timeout = wait_s
    client.connection_timeout = min(wait_s, 10.0)
    contexts = [build_context(sop_class, syntax or None) for sop_class, syntax in kinds]
    try:
        assoc = client.associate(
            to.host, to.port, contexts, to.ae, MAX_UNIT, evt_handlers=[(evt.EVT_CONN_OPEN, _at_once)]
        )
    except (OSError, ValueError) as error:
        raise SendError(f"{to} cannot be reached ({error})") from error
    if assoc.is_established:
        return assoc
    if assoc.is_rejected:
        primitive = assoc.acceptor.primitive
        why = primitive.reason_str if primitive is not None else "no reason given"
        raise SendError(f"{to} refuses the association ({why}): does it know {calling!r} and its own title?")
    raise SendError(f"{to} is not there, or takes none of the objects")


def _at_once(event: Any) -> None:
    """Have each unit sent when it is written: what waits for a peer's acknowledgement waits 40 ms an object."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
