"""One object after the other as C-STORE brings them: on disk, its header read, and only then acknowledged."""

import threading
import time
from collections.abc import Callable
from typing import Any

from qsm_runtime.io.dicom.frames import ENHANCED_MR, Frame
from qsm_runtime.io.dicom.instance import CLASSIC_MR
from qsm_runtime.io.dicom.read import read_file
from qsm_runtime.serve.dicom_head import file_head
from qsm_runtime.serve.dicom_store import Arrival
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.spool import MIB, Spool, SpoolFull
from qsm_runtime.serve.spool_files import name_of

MR_IMAGES = (CLASSIC_MR, *ENHANCED_MR)
SUCCESS, NO_ROOM, NOT_OF_CLASS, NOT_UNDERSTOOD, OTHER_CONTENT = 0x0000, 0xA700, 0xA900, 0xC000, 0xC001


class Receiver:
    """taken: told the association and the planes of each object that is ours to keep. last: when the latest one came.

    closed: nothing more is taken.
    """

    def __init__(
        self, spool: Spool, log: StudyLog, max_object_mib: int, taken: Callable[[Any, list[Frame]], None]
    ) -> None:
        self.counts = {"received": 0, "again": 0, "refused": 0}
        self.closed, self.last = False, 0.0
        self._spool, self._log, self._max_mib, self._taken = spool, log, max_object_mib, taken
        self._storing = threading.Lock()

    def store_event(self, event: Any) -> int:
        """A request that came in an unusual form."""
        request = event.request
        sop_class, uid = str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")
        parts = [] if request.DataSet is None else [request.DataSet.getvalue()]
        return self.store(Arrival(event.assoc, sop_class, uid, str(event.context.transfer_syntax), parts))[0]

    def store(self, sent: Arrival) -> tuple[int, str]:
        """The answer to one C-STORE: the status says whether the object is ours to keep now."""
        self.last = time.monotonic()
        if self.closed:
            return NO_ROOM, "shutting down, send it again later"
        if not sent.uid or sent.sop_class not in MR_IMAGES or not sent.parts:
            return self._refused(NOT_UNDERSTOOD, "no object, or none of MR")
        parts = [file_head(sent.sop_class, sent.uid, sent.syntax), *sent.parts]
        name = name_of(sent.uid)
        with self._storing:
            if self._spool.path(name) is not None:
                if self._spool.holds(name, b"".join(parts)):
                    self.counts["again"] += 1
                    return SUCCESS, ""
                return self._refused(OTHER_CONTENT, "another object of the same UID came before")
            try:
                path = self._spool.take(name, parts)
            except SpoolFull as error:
                return self._refused(NO_ROOM, str(error))
            with self._spool.reading(name):
                frames = read_file(path)
            if isinstance(frames, str):
                status, reason = NOT_UNDERSTOOD, frames or "no DICOM"
            else:
                status, reason = self._fault(frames, sent)
            if reason or isinstance(frames, str):
                self._spool.drop(name)
                return self._refused(status, reason)
        self.counts["received"] += 1
        self._taken(sent.association, frames)
        return SUCCESS, ""

    def _fault(self, frames: list[Frame], sent: Arrival) -> tuple[int, str]:
        """What is wrong with an object by its header; empty: nothing."""
        instance = frames[0].instance
        size = instance.frames * instance.plane_bytes
        if (instance.sop_class, instance.sop_uid) != (sent.sop_class, sent.uid):
            return NOT_OF_CLASS, "its header names another object than the request"
        if not instance.study_uid or not instance.series_uid:
            return NOT_UNDERSTOOD, "no StudyInstanceUID or SeriesInstanceUID"
        if size > self._max_mib * MIB:
            return NOT_UNDERSTOOD, f"{size // MIB} MiB of samples are more than is taken"
        return NOT_UNDERSTOOD, instance.damage

    def _refused(self, status: int, reason: str) -> tuple[int, str]:
        self.counts["refused"] += 1
        self._log.event("object.refused", level="warning", status=f"0x{status:04X}", reason=reason)
        return status, reason
