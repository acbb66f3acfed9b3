"""The watched folder: studies that consoles export as files are taken when whole and quiet, and answered.

One thread looks, takes and ends studies, so that nothing about them needs a lock; others read, wait for the core and
write. A study that cannot be answered ends in failed/ with its reason, its files untouched, and the watch goes on.
"""

import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qsm_runtime.errors import OutputError
from qsm_runtime.io.dicom.find import FoundDicom
from qsm_runtime.serve.attempts import MAX_TRIES, Attempts, Reading
from qsm_runtime.serve.log import StudyLog, hashed, scrubbed
from qsm_runtime.serve.watch_claims import FOLDERS, LOCK, RECORD, WORKING, Claims
from qsm_runtime.serve.watch_drops import Drop, Drops, find_in
from qsm_runtime.serve.watch_files import listing
from qsm_runtime.serve.watch_headers import Headers
from qsm_runtime.serve.watch_job import Rules, Submits, Work
from qsm_runtime.serve.watch_studies import AGAIN_S, Studies
from qsm_runtime.serve.watch_words import check_places, nameless, refusals, study_of

__all__ = ["MAX_TRIES", "Rules", "Watch"]


class Watch:
    """FrontEnd of one folder. Raises UsageError, InputError or OutputError where it cannot be watched or written to."""

    name = "watch"

    def __init__(self, folder: Path, out: Path, core: Submits, log: StudyLog, rules: Rules) -> None:
        self.folder, self.out, self.rules, self.log = folder.absolute(), out.absolute(), rules, log
        check_places(self.folder, self.out)
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._claims = Claims(self.folder)
        self._studies = Studies(self.out, self._claims, Work(core, log, rules, self._stopping), self._wake)
        working = self.folder / WORKING
        reading, attempts = Reading(working / LOCK), Attempts(working / ".attempts.json")
        self._drops = Drops(self.folder, FOLDERS, Headers(rules.threads or 2, reading, attempts, rules.tries))
        self._held: dict[str, float] = {}  # drops that could not be moved: name -> when to try again
        self._taking = True
        self._unfinished: deque[Path] = deque()  # folders that an earlier process left in working
        self._given_up = 0
        self._problem = ""
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="watch-turn")
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def accepting(self, yes: bool) -> None:
        self._taking = yes
        self._wake.set()

    def stop(self) -> None:
        """Finish the scans that were begun; what is left stays in working for the next start."""
        self._taking = False
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._studies.close()
        self._turns.shutdown()
        self._drops.headers.close()
        self._claims.close()

    def state(self) -> dict[str, Any]:
        drops = list(self._drops.current.values())
        return {
            "ready": not self._problem and self._taking,
            "where": f"{self.folder} to {self.out}",
            "waiting": len(drops),
            "incomplete": sum(bool(drop.lacks) for drop in drops),
            "held": len(self._held),
            "working": len(self._studies.current),
            "unfinished": len(self._unfinished),
            **self._studies.counts,
            "given_up": self._given_up,
            **({"problem": self._problem} if self._problem else {}),
        }

    def _loop(self) -> None:
        """Turns until nothing is to be done; an error in one is told, and the next begins anew."""
        self._unfinished.extend(self._claims.unfinished())
        while not self._stopping.is_set() or self._studies.running:
            self._wake.clear()
            begun = time.monotonic()
            self._guarded(self._turn)
            spent = time.monotonic() - begun
            reading = self._drops.waiting and not self._problem
            self._wake.wait(0.0 if reading else max(self.rules.poll_s, 10 * spent))
        self._guarded(self._studies.end_finished)

    def _guarded(self, turn: Callable[[], None]) -> None:
        """Do a turn; what goes wrong in it is told once, and /ready says no while it lasts."""
        error = self._turns.submit(turn).exception()
        problem = "" if error is None else f"{type(error).__name__}: {error}"
        problem = scrubbed(problem.replace(str(self.out), "OUT").replace(str(self.folder), "IN"))
        if problem and problem != self._problem:
            self.log.event("watch.problem", level="error", message=problem)
        self._problem = problem

    def _resume(self, folder: Path) -> None:
        """Take up what an earlier process left in working."""
        claim = self._claims.resume(folder)
        if claim is None:
            return
        shutil.rmtree(self._studies.part(claim), ignore_errors=True)
        published = self.out / claim.name / RECORD
        if published.is_file():  # ended after the maps were out and before the originals were moved
            document = json.loads(published.read_text(encoding="ascii"))
            self._studies.move(claim, document)
            return
        self.log.event("watch.resumed", study=hashed(claim.drop), tries=claim.tries)
        foreign = listing(claim.data).foreign if claim.data.is_dir() else {}
        if foreign:
            self._studies.begin(claim, [], refusals(foreign))
        elif claim.tries >= self.rules.tries:
            self._given_up += 1
            self.log.event("watch.given_up", level="error", study=hashed(claim.drop), tries=claim.tries)
            self._studies.begin(claim, [], [f"the server ended {claim.tries} times while it worked on this study"])
        else:
            self._claims.begin(claim)
            scans, why = find_in(claim.data)
            self._studies.begin(claim, scans, [why] if why else [])

    def _turn(self) -> None:
        self._studies.end_finished()
        self._studies.sweep(self.rules.keep)
        if not self._taking:
            return
        alone = self._one_alone()
        self._drops.look()
        self._check_out()
        here = {drop.name for drop in self._drops.current.values()}
        self._held = {name: again for name, again in self._held.items() if name in here}
        for drop in self._drops.current.values():
            if alone or self._studies.full:
                return
            if drop.quiet_s < self.rules.settle_s or self._held.get(drop.name, 0.0) > time.monotonic():
                continue
            if drop.foreign:
                self._take(drop, refusals(drop.foreign))
            elif not self._drops.read(drop):
                continue
            elif not (lacks := self._drops.assess(drop)):
                self._take(drop, [])
            elif drop.quiet_s >= self.rules.give_up_s:
                self._take(drop, [lack for lack in lacks if not drop.scans])
            else:
                self._tell_once(drop, lacks)

    def _one_alone(self) -> bool:
        """Whether nothing else may be begun. What an earlier process left is resumed here, one after the other, and
        what that process ended at is worked on alone: no neighbour must be counted with it."""
        running = self._studies.running
        if self._unfinished and not running:
            self._wake.set()
            self._resume(self._unfinished.popleft())
            return True
        return bool(self._unfinished) or any(job.claim.tries > 1 for job in running)

    def _take(self, drop: Drop, problems: Sequence[str]) -> None:
        """Claim a drop and begin its scans; one that changed in that moment is put back."""
        try:
            claim = self._claims.take(drop)
        except OutputError as error:
            if drop.name not in self._held:
                said = nameless(str(error), drop.name)
                self.log.event("watch.held", level="error", study=study_of(drop.scans, drop.name), message=said)
            self._held[drop.name] = time.monotonic() + AGAIN_S
            return
        self._held.pop(drop.name, None)
        self._claims.begin(claim)
        here = listing(claim.data) if claim.data.is_dir() else None
        if here is not None and (here.files, here.foreign) != (drop.files, drop.foreign):
            if self._claims.put_back(claim):
                drop.changed = time.monotonic()
                return
            scans, why = ([], "") if here.foreign else find_in(claim.data)
            problems = [*refusals(here.foreign), *([why] if why else [])]
        else:
            scans = [] if problems else self._drops.moved(drop, claim.data)
        size = sum(mark.size for mark in drop.files.values())
        self.log.event(
            "watch.taken", study=study_of(scans, drop.name), scans=len(scans), files=len(drop.files), mib=size / 2**20
        )
        self._studies.begin(claim, scans, problems)

    def _tell_once(self, drop: Drop, lacks: Sequence[str]) -> None:
        if drop.told:
            return
        drop.told = True
        names = [*drop.files, *(scan.name for scan in drop.scans if not isinstance(scan, FoundDicom))]
        said = [nameless(lack, drop.name, names) for lack in lacks[:10]]
        left = self.rules.give_up_s - drop.quiet_s
        self.log.event("watch.incomplete", study=study_of(drop.scans, drop.name), lacks=said, gives_up_s=left)

    def _check_out(self) -> None:
        """Raise OutputError where nothing can be written: then nothing is taken either."""
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise OutputError(f"{self.out}: cannot be written; see that it is there and that this user may write to it")
