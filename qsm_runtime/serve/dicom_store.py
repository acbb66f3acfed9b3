"""C-STORE requests and answers in bytes (PS3.7 9.3.1): the library's general way to a handler and back takes several
times as long as storing the object does.

Only commands of one fragment are taken here; any other message goes the library's way.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

C_STORE, RESPONSE, NO_DATA = 0x0001, 0x8000, 0x0101
COMMAND, LAST = 1, 2  # bits of a fragment's control byte (PS3.8 E.2)
GROUP_LENGTH, SOP_CLASS, FIELD, MESSAGE_ID, RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
PRIORITY, DATA_TYPE, STATUS, COMMENT, INSTANCE = 0x0700, 0x0800, 0x0900, 0x0902, 0x1000
MEDIUM, WITH_DATA = 0, 1
FRAGMENT_HEAD = 6  # bytes of a unit that are not its fragment's content
LONGEST_COMMENT = 64
KIND_REFUSED = 0x0122
PADDING = " \0"


@dataclass(frozen=True)
class Arrival:
    """An object as it was sent: parts of its data set, in order, and what the request says of it."""

    association: Any
    sop_class: str
    uid: str
    syntax: str
    parts: list[bytes]


class StoreProvider(DIMSEServiceProvider):
    """Gives whole objects to `store`, which returns the status and, for a refusal, why."""

    def __init__(self, association: Any, store: Callable[[Arrival], tuple[int, str]]) -> None:
        super().__init__(association)
        self._store = store
        self._command: dict[int, bytes] | None = None
        self._context = 0
        self._parts: list[bytes] = []

    def receive_primitive(self, primitive: P_DATA) -> None:
        for item in primitive.presentation_data_value_list:
            if self.message is None and self._take(*item):
                continue
            single = P_DATA()
            single.presentation_data_value_list = [list(item)]  # type: ignore[list-item]
            super().receive_primitive(single)

    def _take(self, context: int, fragment: bytes) -> bool:
        """Take a fragment of a C-STORE request; False for any other. Raises ValueError where it breaks the order."""
        control = fragment[0]
        if self._command is None:
            if control & (COMMAND | LAST) != COMMAND | LAST:
                return False
            command = elements(fragment[1:])
            if number(command, FIELD) != C_STORE or number(command, DATA_TYPE) == NO_DATA:
                return False
            self._command, self._context = command, context
            return True
        if control & COMMAND or context != self._context:
            raise ValueError("a command within a data set")
        self._parts.append(fragment[1:])
        if control & LAST:
            command, parts = self._command, self._parts
            self._command, self._parts = None, []
            self._answer(command, context, parts)
        return True

    def _answer(self, command: dict[int, bytes], context: int, parts: list[bytes]) -> None:
        accepted = {one.context_id: one for one in self.assoc.accepted_contexts}[context]
        sop_class, uid = _text(command, SOP_CLASS), _text(command, INSTANCE)
        status, comment = KIND_REFUSED, "not the kind of this presentation context"
        if sop_class == accepted.abstract_syntax:
            syntax = str(accepted.transfer_syntax[0])
            status, comment = self._store(Arrival(self.assoc, sop_class, uid, syntax, parts))
        socket: Any = self.dul.socket
        socket.message_read()
        socket.send(unit(context, response(command, status, comment), COMMAND | LAST))


def elements(command: bytes) -> dict[int, bytes]:
    """Elements of a command set by number, implicit little endian. Raises ValueError where they are none."""
    found, at = {}, 0
    while at < len(command):
        if at + 8 > len(command):
            raise ValueError("command cut short")
        group, number, length = struct.unpack_from("<HHL", command, at)
        if group != 0 or at + 8 + length > len(command):
            raise ValueError("no command")
        found[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def response(command: dict[int, bytes], status: int, comment: str) -> bytes:
    """The command set that answers a C-STORE request."""
    said = comment.encode("ascii", "replace")[:LONGEST_COMMENT].replace(b"\\", b"/") if status else b""
    body = b"".join(
        (
            _element(SOP_CLASS, command.get(SOP_CLASS, b"")),
            _element(FIELD, struct.pack("<H", C_STORE | RESPONSE)),
            _element(RESPONDED_TO, command.get(MESSAGE_ID, b"\0\0")),
            _element(DATA_TYPE, struct.pack("<H", NO_DATA)),
            _element(STATUS, struct.pack("<H", status)),
            _element(COMMENT, said + b" " * (len(said) % 2)) if said else b"",
            _element(INSTANCE, command.get(INSTANCE, b"")),
        )
    )
    return _element(GROUP_LENGTH, struct.pack("<L", len(body))) + body


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def request(sop_class: str, uid: str, message: int) -> bytes:
    """The command set of a C-STORE request."""
    body = b"".join(
        (
            _element(SOP_CLASS, _padded(sop_class)),
            _element(FIELD, struct.pack("<H", C_STORE)),
            _element(MESSAGE_ID, struct.pack("<H", message)),
            _element(PRIORITY, struct.pack("<H", MEDIUM)),
            _element(DATA_TYPE, struct.pack("<H", WITH_DATA)),
            _element(INSTANCE, _padded(uid)),
        )
    )
    return _element(GROUP_LENGTH, struct.pack("<L", len(body))) + body


def units(context: int, command: bytes, data: bytes, longest: int) -> bytes:
    """A request as the units to send; longest: of a unit's content, 0 where the peer sets no limit."""
    size = (longest or len(data) + FRAGMENT_HEAD) - FRAGMENT_HEAD
    sent = [unit(context, command, COMMAND | LAST)]
    for start in range(0, len(data), size):
        sent.append(unit(context, data[start : start + size], LAST if start + size >= len(data) else 0))
    return b"".join(sent)


def unit(context: int, content: bytes, control: int) -> bytes:
    """A P-DATA-TF unit of one fragment (PS3.8 9.3.5)."""
    return struct.pack(">BBLLBB", 4, 0, len(content) + 6, len(content) + 2, context, control) + content


def number(command: dict[int, bytes], element: int) -> int | None:
    """A value of two bytes, None where there is none."""
    value = command.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def _text(command: dict[int, bytes], number: int) -> str:
    return command.get(number, b"").decode("ascii", "replace").strip(PADDING)
