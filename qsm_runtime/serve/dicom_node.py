"""A DICOM node: objects come in by C-STORE, the susceptibility map goes to the destinations by C-STORE.

What is negotiated: MR Image Storage, classic and enhanced, uncompressed or in a lossless compression that can be
decoded here, and Verification. Anything else is refused then. An object is acknowledged once it is a whole file in
the spool and its header could be read.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pynetdicom import evt
from pynetdicom.pdu_primitives import A_RELEASE

from qsm_runtime.errors import UsageError
from qsm_runtime.io.dicom.frames import Frame
from qsm_runtime.io.dicom.pixels import decoder_missing
from qsm_runtime.io.dicom.read import UNCOMPRESSED
from qsm_runtime.serve.delivery import Delivery
from qsm_runtime.serve.dicom_answer import write_answer
from qsm_runtime.serve.dicom_job import Reconstructs, Work
from qsm_runtime.serve.dicom_jobs import Jobs
from qsm_runtime.serve.dicom_receive import MR_IMAGES, NO_ROOM, SUCCESS, Receiver
from qsm_runtime.serve.dicom_resume import resume
from qsm_runtime.serve.dicom_settings import NodeSettings
from qsm_runtime.serve.dicom_wire import MAX_REQUEST, BoundedEntity, BoundedServer, BoundedSocket
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import MIB, Spool

if TYPE_CHECKING:
    from pynetdicom.association import Association

VERIFICATION = "1.2.840.10008.1.1"
LOSSLESS = (  # RLE, JPEG lossless, JPEG-LS, JPEG 2000
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)  # fmt: skip
HANDSHAKES = 8  # connections beyond the associations: those that have said nothing yet
GREETING_S, IDLE_S = 15.0, 300.0
GRACE_S, PAUSE_S = 20.0, 1.0  # for a sender to finish when the node ends, as long as it does not pause
LISTEN_S = 0.2


@dataclass
class _Open:
    """An association: when it began, and how many objects it has brought."""

    association: "Association"
    begun: float = field(default_factory=time.monotonic)
    objects: int = 0


class DicomNode:
    """A front end (serve.service). The port is bound and the spool opened when it is made."""

    name = "dicom"

    def __init__(self, settings: NodeSettings, core: Reconstructs, log: StudyLog) -> None:
        settings.check()
        self.settings, self.log = settings, log
        self.spool = Spool(settings.spool, settings.limits, self._removed)
        self._waiting = self.spool.open()
        self.delivery = Delivery(self.spool, settings.to, settings.ae, log, 3600 * settings.give_up_h)
        work = Work(self.spool, core, log, write_answer, self.delivery.told, settings.threads)
        self.jobs = Jobs(work, settings.timing)
        self._accepting = False
        self._given_up = 0  # studies, at the start
        self._receiver = Receiver(self.spool, log, settings.max_object_mib, self._taken)
        self._associations: dict[int, _Open] = {}
        self._server: Any = self._listen()
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self.jobs.start()
        self._given_up = resume(self._waiting, self.spool, self.jobs.arrived, self.log, self.settings.tries)
        self._waiting = []
        self.delivery.start()
        self._accepting = True
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=LISTEN_S), name="dicom-listen", daemon=True
        )
        self._thread.start()

    def accepting(self, yes: bool) -> None:
        """False: no new association; those that are open may come to their end."""
        self._accepting = yes

    def stop(self) -> None:
        self._accepting = False
        if self._thread is not None:
            end = time.monotonic() + GRACE_S
            while time.monotonic() < min(end, self._receiver.last + PAUSE_S):
                time.sleep(LISTEN_S)
            self._receiver.closed = True
            self._server.shutdown()
            self._thread.join()
            for association in self._server.active_associations:
                association.dul.socket.hang_up()
            self.jobs.stop()
            self.delivery.stop()
        else:
            self._server.server_close()
        self.spool.close()

    def state(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "where": f"{settings.ae}@{settings.host}:{self.port}",
            "ready": self._accepting,
            **self._receiver.counts,
            "associations": len(self._server.active_associations),
            "spool": self.spool.state(),
            **self.jobs.state(),
            "given_up": self._given_up,
            **self.delivery.state(),
        }

    def _listen(self) -> BoundedServer:
        settings = self.settings
        entity = BoundedEntity(ae_title=settings.ae)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.calling)
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = settings.max_unit
        entity.acse_timeout = GREETING_S
        entity.network_timeout = IDLE_S
        entity.dimse_timeout = IDLE_S
        syntaxes = [*UNCOMPRESSED, *(syntax for syntax in LOSSLESS if not decoder_missing(syntax))]
        for sop_class in MR_IMAGES:
            entity.add_supported_context(sop_class, syntaxes)
        entity.add_supported_context(VERIFICATION)
        handlers: Any = [
            (evt.EVT_C_STORE, self._receiver.store_event),
            (evt.EVT_C_ECHO, lambda event: SUCCESS if self._accepting else NO_ROOM),
            (evt.EVT_DIMSE_RECV, _message_read),
            (evt.EVT_ACCEPTED, self._begun),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ACSE_RECV, self._told),
            (evt.EVT_ABORTED, lambda event: self._forget(event.assoc, orderly=False)),
            (evt.EVT_CONN_CLOSE, lambda event: self._forget(event.assoc, orderly=False)),
        ]
        try:
            server: Any = entity.make_server(
                (settings.host, settings.port), evt_handlers=handlers, server_class=BoundedServer,
                request_handler=BoundedServer.handler,
            )  # fmt: skip
        except OSError as error:
            self.spool.close()
            where = f"{settings.host}:{settings.port}"
            raise UsageError(f"{where} cannot be listened on ({error.strerror}); choose another --port") from error
        server.max_unit, server.admit, server.store = settings.max_unit, self._admit, self._receiver.store
        server.max_message = settings.max_object_mib * MIB + MAX_REQUEST
        entity._servers.append(server)  # shutdown() takes it off again
        return server

    def _admit(self, address: str, connected: int) -> bool:
        allowed = not self.settings.peers or address in self.settings.peers
        if not allowed:
            self.log.event("peer.refused", level="warning", address=address)
        return allowed and self._accepting and connected < self.settings.max_associations + HANDSHAKES

    def _begun(self, event: Any) -> None:
        for gone in [one for one in self._associations.values() if not one.association.is_alive()]:
            self._forget(gone.association, orderly=False)  # the connection closed before it was greeted
        self._associations[id(event.assoc)] = _Open(event.assoc)
        self.log.event("association.begun", calling=event.assoc.requestor.ae_title)

    def _rejected(self, event: Any) -> None:
        primitive = event.assoc.requestor.primitive
        called = primitive.called_ae_title if primitive is not None else None
        self.log.event("association.rejected", level="warning", calling=event.assoc.requestor.ae_title, called=called)

    def _told(self, event: Any) -> None:
        if isinstance(event.primitive, A_RELEASE):  # before the connection can close
            self._forget(event.assoc, orderly=True)

    def _forget(self, association: "Association", orderly: bool) -> None:
        one = self._associations.pop(id(association), None)
        if one is not None:
            self.jobs.left(id(association), orderly=orderly)
            seconds = time.monotonic() - one.begun
            level = "info" if orderly else "warning"
            self.log.event("association.ended", level=level, orderly=orderly, objects=one.objects, seconds=seconds)

    def _removed(self, state: str, job: str, size: int) -> None:
        self.log.event("kept.removed", state=state, job=job, mib=size / MIB)

    def _taken(self, association: Any, frames: list[Frame]) -> None:
        """An object is ours to keep."""
        one = self._associations.get(id(association))
        if one is not None:
            one.objects += 1
        self.jobs.arrived(frames, id(association) if one is not None else 0)


def _message_read(event: Any) -> None:
    association: Association = event.assoc
    if isinstance(association.dul.socket, BoundedSocket):
        association.dul.socket.message_read()
