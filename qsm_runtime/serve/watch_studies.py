"""Claimed studies at work: begun, then their maps published and their originals moved to where they end.

For one thread; only the scans themselves are worked on by others.
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qsm_runtime.errors import OutputError
from qsm_runtime.io.atomic import said, write_files
from qsm_runtime.io.found import Found
from qsm_runtime.serve.keep import SWEEP_S, Keep
from qsm_runtime.serve.watch_claims import DATA, DONE, FAILED, RECORD, Claim, Claims, json_of
from qsm_runtime.serve.watch_files import listing
from qsm_runtime.serve.watch_job import PutOff, Work
from qsm_runtime.serve.watch_words import document_of, error_fields, nameless, study_of

AT_ONCE = 2  # studies taken: one is read or written while the other is reconstructed
AGAIN_S = 30.0  # before a folder that could not be moved is tried again


@dataclass
class Job:
    """A claimed study at work: a future for each scan, in their order. problems: what the study as a whole lacks."""

    claim: Claim
    scans: list[Found]
    problems: list[str]
    study: str
    futures: list[Future[dict[str, Any]]] = field(default_factory=list)
    again: float = 0.0  # not to be ended before, on the monotonic clock

    @property
    def running(self) -> bool:
        return not all(future.done() for future in self.futures)


class Studies:
    """current: not ended yet. counts: ended, by where. wake: set when a scan is finished."""

    def __init__(self, out: Path, claims: Claims, work: Work, wake: threading.Event) -> None:
        self.current: list[Job] = []
        self.counts = {DONE: 0, FAILED: 0}
        self._out, self._claims, self._work, self._wake = out, claims, work, wake
        self._sweep_at = 0.0  # on the monotonic clock
        self._runners = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="watch-scan")

    @property
    def running(self) -> list[Job]:
        """Those with a scan that is not finished."""
        return [job for job in self.current if job.running]

    @property
    def full(self) -> bool:
        return len(self.current) >= AT_ONCE

    def close(self) -> None:
        self._runners.shutdown()

    def begin(self, claim: Claim, scans: list[Found], problems: Sequence[str]) -> None:
        """Work on the scans of a claim. problems: what the study as a whole lacks."""
        job = Job(claim, scans, list(problems), study_of(scans, claim.drop))
        part = self.part(claim)
        for scan in scans:
            future = self._runners.submit(partial(self._work.scan, scan, part, study_of([scan], claim.drop)))
            future.add_done_callback(lambda _: self._wake.set())
            job.futures.append(future)
        self.current.append(job)
        self._wake.set()

    def end_finished(self) -> None:
        """End those whose scans are finished; one that cannot be moved is tried again later."""
        for job in list(self.current):
            if job.again > time.monotonic() or job.running:
                continue
            errors = [future.exception() for future in job.futures]
            if any(isinstance(error, PutOff) for error in errors):
                self._claims.begin(job.claim, -1)
                self._work.log.event("watch.put_off", study=job.study)
                self.current.remove(job)
                continue
            try:
                self._end(job, errors)
                self.current.remove(job)
            except OutputError as error:
                job.again = time.monotonic() + AGAIN_S
                said = nameless(str(error), job.claim.drop)
                self._work.log.event("watch.held", level="error", study=job.study, message=said)

    def _end(self, job: Job, errors: Sequence[BaseException | None]) -> None:
        """Publish the maps of a job that has some, then move its originals. Raises OutputError."""
        part, place = self.part(job.claim), self._out / job.claim.name
        scans = []
        for scan, future, error in zip(job.scans, job.futures, errors, strict=True):
            scans.append(future.result() if error is None else {"scan": scan.name, "error": error_fields(error)})
        document = document_of(job.study, scans, job.problems, place, self._claims.root)
        if document["out"] and not place.exists():
            write_files({part / RECORD: [json_of(document)]}, overwrite=True)
            try:
                os.rename(part, place)
            except OSError as error:
                raise OutputError(said(place, error)) from error
        shutil.rmtree(part, ignore_errors=True)
        self.move(job.claim, document)

    def move(self, claim: Claim, document: dict[str, Any]) -> None:
        """Originals to where their study ends, by its record. Raises OutputError."""
        where = document["state"]
        place = self._claims.end(claim, where, document, document["reason"])
        self.counts[where] += 1
        self._sweep_at = 0.0
        kinds = [one["error"]["kind"] for one in document["scans"] if "error" in one]
        here = listing(place / DATA)
        problems = [nameless(text, claim.drop, [*here.files, *here.foreign]) for text in document["problems"]]
        self._work.log.event(
            f"watch.{where}", level="error" if where == FAILED else "info", study=document["study"],
            scans=len(document["scans"]), kinds=kinds or None, problems=problems or None,
        )  # fmt: skip

    def part(self, claim: Claim) -> Path:
        """Where maps are written before they are whole."""
        return self._out / f".{claim.name}.part"

    def sweep(self, keep: Keep) -> None:
        """Remove what ended long ago, when something has ended and now and then."""
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_S
            for state, study, size in self._claims.retire(keep):
                self._work.log.event("kept.removed", state=state, study=study, mib=size / 2**20)
