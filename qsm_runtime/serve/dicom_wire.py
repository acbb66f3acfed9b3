"""What pynetdicom leaves to trust on a connection, bounded: unit lengths, message lengths, who may connect.

A protocol unit (PS3.8 9.3.1) begins with its type and a length of up to 4 GiB, which the library would wait for and
hold. Here a connection ends at the first unit that is none or is longer than was agreed, and at the first message
longer than an object may be; noise costs one read.
"""

import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.fsm import InvalidEventError, StateMachine
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from qsm_runtime.io.dicom.header import MALFORMED
from qsm_runtime.serve.dicom_store import Arrival, StoreProvider

UNIT_TYPES = range(1, 8)  # of the upper layer's protocol units
MAX_AHEAD = 4  # messages that a peer may send before the first is answered; then it waits
MAX_REQUEST = 1 << 20  # bytes of an association request: 128 contexts with every transfer syntax are a tenth
SLACK = 4096  # beyond the agreed length: some peers count headers differently
HEAD = 6
QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
SEND_S = 30.0  # a peer that takes nothing for so long has gone

logging.getLogger("pynetdicom").addHandler(logging.NullHandler())  # what it says of faults, the node's log says
_config.LOG_HANDLER_LEVEL = "none"  # each unit and message put into words is half of the time it takes


class BoundedSocket(AssociationSocket):
    """Reads straight into its buffer, and nothing beyond the limits. `taken`: bytes since the last whole message."""

    max_unit = MAX_REQUEST
    max_message = 1 << 30
    taken = 0

    @property
    def ready(self) -> bool:
        return self.assoc.dimse.msg_queue.qsize() < MAX_AHEAD and super().ready

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes == HEAD and QUICK_ACK is not None and self.socket is not None:
            # a sender with Nagle's algorithm waits for it before it sends the rest: 40 ms an object
            self.socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        if nr_bytes != HEAD and nr_bytes > self._unit_limit():
            self._refuse()
        self.taken += nr_bytes
        if self.taken > self.max_message:
            self._refuse()
        data = bytearray(nr_bytes)
        view, read = memoryview(data), 0
        while read < nr_bytes:
            got = self.socket.recv_into(view[read:]) if self.socket is not None else 0
            if not got:
                return data[:read]
            read += got
        if nr_bytes == HEAD and (data[0] not in UNIT_TYPES or struct.unpack(">L", data[2:])[0] > self._unit_limit()):
            self._refuse()
        return data

    def message_read(self) -> None:
        """A whole message has come."""
        self.taken = 0

    def _unit_limit(self) -> int:
        return self.max_unit if self.assoc.is_established else MAX_REQUEST

    def _refuse(self) -> None:
        self.hang_up()
        raise OSError("more than was agreed")

    def hang_up(self) -> None:
        self._shutdown_socket()


class BoundedStates(StateMachine):
    """Ends the association, and only it, where the library raises; one that was never greeted ends at once."""

    def do_action(self, event: str) -> None:
        try:
            super().do_action(event)
        except (InvalidEventError, *MALFORMED):
            if self.dul.socket is not None:
                self.dul.socket._shutdown_socket()
            if self.dul.assoc.is_established:
                self.dul.to_user_queue.put(A_P_ABORT())
            self.dul.kill_dul()
            self.current_state = "Sta1"
        if self.current_state == "Sta1" and not self.dul.assoc.is_established:
            self.dul.to_user_queue.put(None)  # type: ignore[arg-type]  # what the association takes for a timeout


class BoundedEntity(AE):
    """Its limit counts associations, not connections that have yet to ask for one."""

    @property
    def active_associations(self) -> list[Any]:
        asking = threading.current_thread()
        return [one for one in super().active_associations if one.is_established or one is asking]


class BoundedHandler(RequestHandler):
    """A connection with a bounded socket."""

    server: "BoundedServer"

    def _create_association(self) -> Any:
        assoc = super()._create_association()
        wrapped: Any = assoc.dul.socket
        wrapped.__class__ = BoundedSocket
        assoc.dul.state_machine = BoundedStates(assoc.dul)
        assoc.dimse = StoreProvider(assoc, self.server.store)
        wrapped.max_unit = self.server.max_unit + SLACK
        wrapped.max_message = self.server.max_message
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(self.server.read_s)
        return assoc


class BoundedServer(AssociationServer):
    """Takes connections that `admit` admits: (address, connections open) -> whether; objects go to `store`.

    Each is begun before the next is looked at, so that none is left out of the count.
    """

    max_unit = MAX_REQUEST
    max_message = 1 << 30
    read_s = SEND_S
    admit: Callable[[str, int], bool]
    store: Callable[[Arrival], tuple[int, str]]
    handler = BoundedHandler

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.admit(str(client_address[0]), len(self.active_associations))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away while it was being greeted is no event."""
