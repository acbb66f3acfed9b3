"""One scan of a claimed study: read, reconstructed by the core, its maps written where nobody looks yet."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qsm_runtime import io
from qsm_runtime.errors import OutputError, QsmError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.dicom.write import derived_series, template_of, write_series
from qsm_runtime.io.found import Found
from qsm_runtime.provenance import sidecar_fields
from qsm_runtime.serve.attempts import MAX_TRIES
from qsm_runtime.serve.core import Answer, Busy
from qsm_runtime.serve.keep import Keep
from qsm_runtime.serve.log import StudyLog

BUSY_S = 0.5  # before the core is asked again
RETRY_S = 5.0  # before a disk is tried again


class PutOff(Exception):
    """The service ends before this is done: it stays in working."""


class Submits(Protocol):
    """What of serve.core.Core a scan needs."""

    def submit(self, acquisition: Acquisition, study: str) -> Future[Answer]: ...


@dataclass(frozen=True)
class Rules:
    """form: nifti, dicom or both. Seconds: see `qsm serve watch`. disk_s: how long a full disk is waited for.

    keep: of done and failed. tries: a study at which the process ended so often is given up. versions: of the software,
    for sidecars.
    """

    form: str = "nifti"
    settle_s: float = 10.0
    give_up_s: float = 600.0
    poll_s: float = 1.0
    threads: int | None = None
    disk_s: float = 600.0
    keep: Keep = field(default_factory=Keep)
    tries: int = MAX_TRIES
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What every scan needs. stopping: set when nothing more is to be begun."""

    core: Submits
    log: StudyLog
    rules: Rules
    stopping: threading.Event

    def scan(self, found: Found, part: Path, study: str) -> dict[str, Any]:
        """Reconstruct a scan and write its maps into `part`; what was made, as JSON-able fields.

        Raises QsmError where there is no result, PutOff where the service ends first.
        """
        begun = time.perf_counter()
        if self.stopping.is_set():
            raise PutOff
        acquisition = found.read(threads=self.rules.threads)
        if self.rules.form == "dicom":
            template_of(acquisition)  # raises now for what did not come as DICOM
        read_s = time.perf_counter() - begun
        answer = self._answered(acquisition, study)
        start = time.perf_counter()
        outputs = self._until_written(lambda: write(part, acquisition, answer, self.rules), study)
        seconds = {"read": round(read_s, 3), "write": round(time.perf_counter() - start, 3)}
        seconds["all"] = round(time.perf_counter() - begun, 3)
        self.log.event(
            "watch.answered", study=study, recipe=answer.recipe, late=answer.late, read_s=seconds["read"],
            write_s=seconds["write"], all_s=seconds["all"], warnings=len(answer.result.warnings),
        )  # fmt: skip
        return {
            "scan": found.name,
            "recipe": answer.recipe,
            "late": answer.late,
            "warnings": [*acquisition.warnings, *answer.result.warnings],
            "outputs": sorted(path.relative_to(part).as_posix() for path in outputs),
            "seconds": seconds,
            "core": answer.record,
        }

    def _answered(self, acquisition: Acquisition, study: str) -> Answer:
        while True:
            try:
                return self.core.submit(acquisition, study).result()
            except (Busy, CancelledError) as error:
                if self.stopping.wait(BUSY_S):
                    raise PutOff from error
            except QsmError as error:
                if self.stopping.is_set():  # perhaps only because the core ended
                    raise PutOff from error
                raise

    def _until_written(self, write: Callable[[], list[Path]], study: str) -> list[Path]:
        """Write; while the disk is full or does not let us, wait for it."""
        until = time.monotonic() + self.rules.disk_s
        while True:
            try:
                return write()
            except OutputError as error:
                if not isinstance(error.__cause__, OSError) or time.monotonic() > until:
                    raise
                self.log.event("watch.disk", level="error", study=study, message=str(error), again_s=RETRY_S)
                if self.stopping.wait(RETRY_S):
                    raise PutOff from error


def write(part: Path, acquisition: Acquisition, answer: Answer, rules: Rules) -> list[Path]:
    """The maps of an answer, chi and the mask where it is valid, as NIfTI, DICOM or both. Raises OutputError."""
    result = answer.result
    maps = {"chi": result.chi_ppm, "mask": result.mask}
    written: list[Path] = []
    if rules.form in ("nifti", "both"):
        fields = {**sidecar_fields(result), "Recipe": answer.recipe, "DeadlinePassed": answer.late}
        fields["SoftwareVersions"] = dict(rules.versions)
        files = io.write_maps(part, acquisition, maps, fields, overwrite=True, threads=rules.threads)
        written += files.values()
    if rules.form == "dicom" or (rules.form == "both" and acquisition.dicom is not None):
        warnings = list(result.warnings)
        series = derived_series(
            acquisition, {"chi": result.chi_ppm}, result.record, warnings=warnings, late=answer.late
        )
        folder = part / f"{acquisition.name}_dicom"
        written += write_series(folder, series, overwrite=True).values()
    return written
