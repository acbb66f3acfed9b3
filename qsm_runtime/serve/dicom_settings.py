"""What a DICOM node is told."""

from dataclasses import dataclass, field
from pathlib import Path

from qsm_runtime.errors import UsageError
from qsm_runtime.serve.attempts import MAX_TRIES
from qsm_runtime.serve.dicom_jobs import Timing
from qsm_runtime.serve.dicom_send import Destination
from qsm_runtime.serve.dicom_wire import MAX_REQUEST
from qsm_runtime.serve.spool_limits import Limits

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class NodeSettings:
    """calling: application entities that may send, all where empty. peers: addresses that may connect, likewise.

    host: what is listened on; any but this machine needs `calling`. port 0: a free one, see DicomNode.port.
    tries: a study at which the process ended so often is given up.
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
    tries: int = MAX_TRIES

    def check(self) -> None:
        """Raise UsageError for what has no meaning."""
        if not self.ae.strip() or len(self.ae) > 16 or not self.ae.isprintable() or "\\" in self.ae:
            raise UsageError(f"an application entity title has 1 to 16 characters and no backslash, got {self.ae!r}")
        if self.host not in LOOPBACK and not self.calling:
            raise UsageError("listening on the network needs --calling: the titles of the scanners that may send")
        if not 4096 <= self.max_unit <= MAX_REQUEST:
            raise UsageError(f"--max-pdu takes 4096 to {MAX_REQUEST} bytes, got {self.max_unit}")
        for what, value in (("--timeout-s", self.timing.timeout_s), ("--max-associations", self.max_associations)):
            if not value > 0:
                raise UsageError(f"{what} takes a number above 0, got {value:g}")
        if not 0 <= self.timing.settle_s <= self.timing.timeout_s:
            raise UsageError(f"--settle-s takes 0 to the timeout, got {self.timing.settle_s:g}")
