"""A DICOM node: objects come in by C-STORE, the susceptibility map goes to the destinations by C-STORE.

What is negotiated: MR Image Storage, classic and enhanced, uncompressed or in a lossless compression that can be
decoded here, and Verification. Anything else is refused then. An object is acknowledged once it is a whole file in
the spool and its header could be read.
"""

import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynetdicom import evt
from pynetdicom.pdu_primitives import A_RELEASE

from qsm_runtime.errors import UsageError
from qsm_runtime.io.dicom.derived import IMPLEMENTATION
from qsm_runtime.io.dicom.frames import ENHANCED_MR
from qsm_runtime.io.dicom.instance import CLASSIC_MR
from qsm_runtime.io.dicom.pixels import decoder_missing
from qsm_runtime.io.dicom.read import UNCOMPRESSED, read_file
from qsm_runtime.serve.delivery import Delivery
from qsm_runtime.serve.dicom_answer import write_answer
from qsm_runtime.serve.dicom_jobs import Jobs, Reconstructs, Timing
from qsm_runtime.serve.dicom_send import Destination
from qsm_runtime.serve.dicom_wire import MAX_REQUEST, BoundedEntity, BoundedServer, BoundedSocket
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import MIB, Limits, Spool, SpoolFull, name_of

if TYPE_CHECKING:
    from pynetdicom.association import Association

VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGES = (CLASSIC_MR, *ENHANCED_MR)
LOSSLESS = (  # RLE, JPEG lossless, JPEG-LS, JPEG 2000
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)  # fmt: skip
SUCCESS, NO_ROOM, NOT_OF_CLASS, NOT_UNDERSTOOD, OTHER_CONTENT = 0x0000, 0xA700, 0xA900, 0xC000, 0xC001
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HANDSHAKES = 8  # connections beyond the associations: those that have said nothing yet
GREETING_S, IDLE_S = 15.0, 300.0
LISTEN_S = 0.2


@dataclass(frozen=True)
class NodeSettings:
    """calling: application entities that may send, all where empty. peers: addresses that may connect, likewise.

    host: what is listened on; any but this machine needs `calling`. port 0: a free one, see DicomNode.port.
    """

    spool: Path
    port: int = 11112
    host: str = "127.0.0.1"
    ae: str = "QSM"
    calling: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    to: tuple[Destination, ...] = ()
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    max_object_mib: int = 512
    max_associations: int = 8
    max_unit: int = 1 << 17
    give_up_h: float = 168.0
    threads: int | None = None


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
        _check(settings)
        self.settings, self.log = settings, log
        self.spool = Spool(settings.spool, settings.limits)
        self._waiting = self.spool.open()
        self.delivery = Delivery(self.spool, settings.to, settings.ae, log, 3600 * settings.give_up_h)
        self.jobs = Jobs(
            self.spool, core, log, settings.timing, write_answer, self.delivery.told, threads=settings.threads
        )
        self._accepting = False
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
        for path in self._waiting:
            frames = read_file(path)
            if isinstance(frames, str):  # was never acknowledged, or the disk has lost it
                self.log.event("object.lost", level="error", reason=frames)
                continue
            self.jobs.arrived(frames)
        if self._waiting:
            self.log.event("spool.resumed", objects=len(self._waiting))
        self._waiting = []
        self.delivery.start()
        self._accepting = True
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=LISTEN_S), name="dicom-listen", daemon=True
        )
        self._thread.start()

    def accepting(self, yes: bool) -> None:
        self._accepting = yes

    def stop(self) -> None:
        self._accepting = False
        if self._thread is not None:
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
            (evt.EVT_C_STORE, self._store),
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
        server.max_unit, server.admit = settings.max_unit, self._admit
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

    def _store(self, event: Any) -> int:
        """The answer to one C-STORE; the status says whether the object is ours to keep now."""
        if not self._accepting:
            return NO_ROOM
        request = event.request
        sop_class, uid = str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")
        stream = request.DataSet
        if not uid or sop_class not in MR_IMAGES or stream is None:
            return self._refused(NOT_UNDERSTOOD, "no object, or none of MR")
        data = stream.getvalue()
        head = file_head(sop_class, uid, str(event.context.transfer_syntax))
        name = name_of(uid)
        with self._storing:
            if self.spool.path(name) is not None:
                if self.spool.holds(name, head + data):
                    self._counts["again"] += 1
                    return SUCCESS
                return self._refused(OTHER_CONTENT, "another object of the same UID came before")
            try:
                path = self.spool.take(name, (head, data))
            except SpoolFull as error:
                return self._refused(NO_ROOM, str(error))
            frames = read_file(path)
            status, reason = NOT_UNDERSTOOD, ""
            if isinstance(frames, str):
                reason = frames or "no DICOM"
            else:
                instance = frames[0].instance
                size = instance.frames * instance.plane_bytes
                if (instance.sop_class, instance.sop_uid) != (sop_class, uid):
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
        if (one := self._associations.get(id(event.assoc))) is not None:
            one.objects += 1
        self._counts["received"] += 1
        self.jobs.arrived(frames, id(event.assoc) if one is not None else 0)
        return SUCCESS

    def _refused(self, status: int, reason: str) -> int:
        self._counts["refused"] += 1
        self.log.event("object.refused", level="warning", status=f"0x{status:04X}", reason=reason)
        return status


def file_head(sop_class: str, uid: str, syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1), explicit little endian."""
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", sop_class.encode()),
            _element(0x0003, b"UI", uid.encode()),
            _element(0x0010, b"UI", syntax.encode()),
            _element(0x0012, b"UI", IMPLEMENTATION.encode()),
        )
    )
    return b"\0" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = struct.pack("<HL", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 2, number) + vr + length + value


def _message_read(event: Any) -> None:
    association: Association = event.assoc
    if isinstance(association.dul.socket, BoundedSocket):
        association.dul.socket.message_read()


def _check(settings: NodeSettings) -> None:
    if not settings.ae.strip() or len(settings.ae) > 16 or not settings.ae.isprintable() or "\\" in settings.ae:
        raise UsageError(f"an application entity title has 1 to 16 characters and no backslash, got {settings.ae!r}")
    if settings.host not in LOOPBACK and not settings.calling:
        raise UsageError("listening on the network needs --calling: the titles of the scanners that may send")
    if not 4096 <= settings.max_unit <= MAX_REQUEST:
        raise UsageError(f"--max-pdu takes 4096 to {MAX_REQUEST} bytes, got {settings.max_unit}")
    for what, value in (("--timeout-s", settings.timing.timeout_s), ("--max-associations", settings.max_associations)):
        if not value > 0:
            raise UsageError(f"{what} takes a number above 0, got {value:g}")
    if not 0 <= settings.timing.settle_s <= settings.timing.timeout_s:
        raise UsageError(f"--settle-s takes 0 to the timeout, got {settings.timing.settle_s:g}")
