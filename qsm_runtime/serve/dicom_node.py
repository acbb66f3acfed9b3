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
from qsm_runtime.io.dicom.frames import ENHANCED_MR
from qsm_runtime.io.dicom.instance import CLASSIC_MR
from qsm_runtime.io.dicom.pixels import decoder_missing
from qsm_runtime.io.dicom.read import UNCOMPRESSED, read_file
from qsm_runtime.serve.delivery import Delivery
from qsm_runtime.serve.dicom_answer import write_answer
from qsm_runtime.serve.dicom_head import file_head
from qsm_runtime.serve.dicom_job import Reconstructs, Work
from qsm_runtime.serve.dicom_jobs import Jobs
from qsm_runtime.serve.dicom_settings import NodeSettings
from qsm_runtime.serve.dicom_store import Arrival
from qsm_runtime.serve.dicom_wire import MAX_REQUEST, BoundedEntity, BoundedServer, BoundedSocket
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import MIB, Spool, SpoolFull
from qsm_runtime.serve.spool_files import name_of

if TYPE_CHECKING:
    from pynetdicom.association import Association

VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGES = (CLASSIC_MR, *ENHANCED_MR)
LOSSLESS = (  # RLE, JPEG lossless, JPEG-LS, JPEG 2000
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)  # fmt: skip
SUCCESS, NO_ROOM, NOT_OF_CLASS, NOT_UNDERSTOOD, OTHER_CONTENT = 0x0000, 0xA700, 0xA900, 0xC000, 0xC001
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
        self.spool = Spool(settings.spool, settings.limits)
        self._waiting = self.spool.open()
        self.delivery = Delivery(self.spool, settings.to, settings.ae, log, 3600 * settings.give_up_h)
        work = Work(self.spool, core, log, write_answer, self.delivery.told, settings.threads)
        self.jobs = Jobs(work, settings.timing)
        self._accepting = self._closed = False
        self._stored = 0.0  # when the last object came
        self._storing = threading.Lock()
        self._counts = {"received": 0, "again": 0, "refused": 0}
        self._associations: dict[int, _Open] = {}
        self._server: Any = self._listen()
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self.jobs.start()
        self._resume()
        self.delivery.start()
        self._accepting = True
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=LISTEN_S), name="dicom-listen", daemon=True
        )
        self._thread.start()

    def _resume(self) -> None:
        """Take up what waited when the last process ended."""
        lost = []
        for path in self._waiting:
            frames = read_file(path)
            if isinstance(frames, str):  # was never acknowledged, or the disk has lost it
                lost.append(path.name)
            else:
                self.jobs.arrived(frames)
        if lost:
            self.jobs.lost(lost)
        if self._waiting:
            self.log.event("spool.resumed", objects=len(self._waiting), unreadable=len(lost))
        self._waiting = []

    def accepting(self, yes: bool) -> None:
        """False: no new association; those that are open may come to their end."""
        self._accepting = yes

    def stop(self) -> None:
        self._accepting = False
        if self._thread is not None:
            end = time.monotonic() + GRACE_S
            while time.monotonic() < min(end, self._stored + PAUSE_S):
                time.sleep(LISTEN_S)
            self._closed = True
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
            **self._counts,
            "associations": len(self._server.active_associations),
            "spool": self.spool.state(),
            **self.jobs.state(),
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
            (evt.EVT_C_STORE, self._store_event),
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
        server.max_unit, server.admit, server.store = settings.max_unit, self._admit, self._store
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

    def _store_event(self, event: Any) -> int:
        """A request that came in an unusual form."""
        request = event.request
        sop_class, uid = str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")
        parts = [] if request.DataSet is None else [request.DataSet.getvalue()]
        return self._store(Arrival(event.assoc, sop_class, uid, str(event.context.transfer_syntax), parts))[0]

    def _store(self, sent: Arrival) -> tuple[int, str]:
        """The answer to one C-STORE: the status says whether the object is ours to keep now."""
        self._stored = time.monotonic()
        if self._closed:
            return NO_ROOM, "shutting down, send it again later"
        if not sent.uid or sent.sop_class not in MR_IMAGES or not sent.parts:
            return self._refused(NOT_UNDERSTOOD, "no object, or none of MR")
        parts = [file_head(sent.sop_class, sent.uid, sent.syntax), *sent.parts]
        name = name_of(sent.uid)
        with self._storing:
            if self.spool.path(name) is not None:
                if self.spool.holds(name, b"".join(parts)):
                    self._counts["again"] += 1
                    return SUCCESS, ""
                return self._refused(OTHER_CONTENT, "another object of the same UID came before")
            try:
                path = self.spool.take(name, parts)
            except SpoolFull as error:
                return self._refused(NO_ROOM, str(error))
            frames = read_file(path)
            status, reason = NOT_UNDERSTOOD, ""
            if isinstance(frames, str):
                reason = frames or "no DICOM"
            else:
                instance = frames[0].instance
                size = instance.frames * instance.plane_bytes
                if (instance.sop_class, instance.sop_uid) != (sent.sop_class, sent.uid):
                    status, reason = NOT_OF_CLASS, "its header names another object than the request"
                elif not instance.study_uid or not instance.series_uid:
                    reason = "no StudyInstanceUID or SeriesInstanceUID"
                elif size > self.settings.max_object_mib * MIB:
                    reason = f"{size // MIB} MiB of samples are more than is taken"
                elif instance.damage:
                    reason = instance.damage
            if reason or isinstance(frames, str):
                self.spool.drop(name)
                return self._refused(status, reason)
        if (one := self._associations.get(id(sent.association))) is not None:
            one.objects += 1
        self._counts["received"] += 1
        self.jobs.arrived(frames, id(sent.association) if one is not None else 0)
        return SUCCESS, ""

    def _refused(self, status: int, reason: str) -> tuple[int, str]:
        self._counts["refused"] += 1
        self.log.event("object.refused", level="warning", status=f"0x{status:04X}", reason=reason)
        return status, reason


def _message_read(event: Any) -> None:
    association: Association = event.assoc
    if isinstance(association.dul.socket, BoundedSocket):
        association.dul.socket.message_read()
