"""The sending side of DICOM (C-STORE and C-ECHO as a client): files to an application entity, one by one."""

import contextlib
import logging
import queue
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from qsm_runtime.errors import InputError, QsmError, UsageError
from qsm_runtime.io.dicom.header import MALFORMED, text
from qsm_runtime.serve.dicom_store import (
    C_STORE,
    COMMAND,
    FIELD,
    KIND_REFUSED,
    LAST,
    RESPONSE,
    STATUS,
    elements,
    number,
    request,
    units,
)

MAX_CONTEXTS = 128  # of one association (PS3.8)
PENDING_S = 30.0
MAX_UNIT = 1 << 17
LOOK_S = 0.2
QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
WARNINGS = range(0xB000, 0xC000)
DESTINATION = re.compile(r"(?P<ae>[^@\\]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]]+):(?P<port>\d{1,5})")

_config.LOG_HANDLER_LEVEL = "none"
for _name in ("pynetdicom", "pynetdicom.transport"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class SendError(QsmError, OSError):
    """A peer that cannot be reached, will not talk to us, or went away."""

    exit_code = 5


class _Answers(DIMSEServiceProvider):
    """Statuses of C-STORE answers, and other messages for whoever waits for them: the association's own thread looks
    without waiting, and would take one that comes at once for a message nobody asked for."""

    def __init__(self, association: Any) -> None:
        super().__init__(association)
        self.statuses: queue.SimpleQueue[int] = queue.SimpleQueue()

    def get_msg(self, block: bool = False) -> Any:
        return super().get_msg(block) if block else (None, None)

    def receive_primitive(self, primitive: Any) -> None:
        for context, fragment in primitive.presentation_data_value_list:
            whole = self.message is None and fragment[0] & (COMMAND | LAST) == COMMAND | LAST
            command = elements(fragment[1:]) if whole else {}
            if number(command, FIELD) == C_STORE | RESPONSE:
                self.statuses.put(number(command, STATUS) or 0)
                continue
            single = P_DATA()
            single.presentation_data_value_list = [[context, fragment]]  # type: ignore[list-item]
            super().receive_primitive(single)


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
    uid: str
    syntax: str
    offset: int  # of the data set


def object_of(path: Path) -> Object | None:
    """None where a file is no DICOM file."""
    try:
        with open(path, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
        meta, offset = split_dataset(path)
        found = Object(path, text(meta, 0x00020002), text(meta, 0x00020003), text(meta, 0x00020010), offset)
    except MALFORMED:
        return None
    return found if found.sop_class and found.uid and found.syntax else None


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
    accepted = {(one.abstract_syntax, one.transfer_syntax[0]): one.context_id for one in assoc.accepted_contexts}
    try:
        for count, one in enumerate(objects):
            context = accepted.get((one.sop_class, one.syntax))
            status = KIND_REFUSED if context is None else _store(assoc, context, one, count % 65535 + 1, wait_s)
            if status is None:
                raise SendError(f"{to} went away after {count} of {len(objects)} objects")
            sent(one.path, 0 if status in WARNINGS else status)
    finally:
        if assoc.is_established:
            assoc.release()


def _store(assoc: Any, context: int, one: Object, message: int, wait_s: float) -> int | None:
    """Send one object; the status of the answer, None where none comes."""
    data = one.path.read_bytes()[one.offset :]
    longest = assoc.acceptor.maximum_length or 0
    connection = assoc.dul.socket.socket if assoc.is_established else None
    if connection is None:
        return None
    try:
        connection.sendall(units(context, request(one.sop_class, one.uid, message), data, longest))
        if QUICK_ACK is not None:  # a peer that answers in two pieces waits for the first to be acknowledged
            connection.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
    except OSError:
        return None
    end = time.monotonic() + wait_s
    while assoc.is_established and time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            status: int = assoc.dimse.statuses.get(timeout=LOOK_S)
            return status
    return None


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
        assoc.dimse = _Answers(assoc)
        return assoc
    if assoc.is_rejected:
        primitive = assoc.acceptor.primitive
        why = primitive.reason_str if primitive is not None else "no reason given"
        raise SendError(f"{to} refuses the association ({why}): does it know {calling!r} and its own title?")
    raise SendError(f"{to} is not there, or takes none of the objects")


def _at_once(event: Any) -> None:
    """Have each unit sent when it is written: what waits for a peer's acknowledgement waits 40 ms an object."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
