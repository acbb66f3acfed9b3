"""One conversation with an MRD client, from its first byte to CLOSE: images in, the same images and maps out.

    client  CONFIG, HEADER, TEXT (parameters), IMAGE ..., CLOSE
    server  IMAGE ... (as they came), IMAGE ... (susceptibility), TEXT (WRN, ERR), CLOSE

Nothing is sent before the client has said all, since one that writes and does not read would wait for ever. Whatever
happens, what came goes back and CLOSE is said, as long as there is somebody to say it to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from qsm_runtime.errors import QsmError, ReconstructionError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.mrd.answer import originals, susceptibility_images, unused_series
from qsm_runtime.io.mrd.encodings import ENCODINGS
from qsm_runtime.io.mrd.parameters import in_parameters
from qsm_runtime.io.mrd.protocol import (
    MIB,
    Ended,
    Limits,
    ProtocolError,
    Reader,
    Stream,
)
from qsm_runtime.io.mrd.read import Study
from qsm_runtime.io.mrd.writer import write_close, write_image, write_text
from qsm_runtime.serve.log import StudyLog, hashed
from qsm_runtime.serve.mrd_said import denial, said_of
from qsm_runtime.serve.mrd_study import Arriving
from qsm_runtime.serve.settings import Answer, Busy

if TYPE_CHECKING:
    from qsm_runtime.serve.early import Early

AGAIN_S = 0.25  # before a busy core is asked again
MANY = 20  # texts of one kind that are sent


class Submits(Protocol):
    """What of serve.core.Core is used here."""

    def submit(
        self, acquisition: Acquisition, study: str, *, early: Early | None = None, recipe: str | None = None
    ) -> Future[Answer]: ...

    def early(self, study: str, recipe: str | None = None) -> Early: ...


@dataclass(frozen=True)
class Rules:
    """answer_s: longest wait for the core. busy_s: of it, for a place in its queue.

    recipes: what a study may ask for by name; the first is the server's own.
    """

    limits: Limits = field(default_factory=Limits)
    answer_s: float = 900.0
    busy_s: float = 120.0
    threads: int | None = None
    recipes: tuple[str, ...] = ()

    def granted(self, recipe: str) -> str | None:
        """The recipe to ask the core for; None: none, for want of a wish or because it is not allowed."""
        return next((name for name in self.recipes if name.casefold() == recipe.casefold()), None)


@dataclass
class Conversation:
    """outcome, once `hold` has ended: "answered", "refused" (with ERR), "empty" (nothing to be done) or "gone"."""

    stream: Stream
    core: Submits
    log: StudyLog
    rules: Rules
    study: str = ""
    outcome: str = ""
    last_in: float = 0.0  # when the last image had come
    _sent: bool = False  # the originals were
    _arriving: Arriving = field(init=False)

    def __post_init__(self) -> None:
        self.study = self.study or hashed(f"mrd {time.time_ns()}")
        self._arriving = Arriving(lambda: self.core.early(self.study, self._granted()), self.rules.threads)

    @property
    def images(self) -> int:
        return len(self._arriving.received)

    def hold(self) -> str:
        """Talk to the end; never raises what the other side can cause. Returns the outcome."""
        ended = False
        try:
            trouble = self._listen()
            try:
                self.outcome = self._answer(trouble)
            except QsmError as error:
                self._refuse(error)
            ended = True
        except MemoryError:
            self._refuse(ReconstructionError("not enough memory for these images; free memory, or send fewer"))
            ended = True
        finally:
            self._arriving.drop()
            if not ended:  # a bug: the client must not wait for what will not come
                self._last_words("ERR the server failed; the images are untouched")
            self._last_words("")
        return self.outcome

    def _listen(self) -> ProtocolError | None:
        """Take all that comes; what kept it from coming whole, if anything did."""
        start = None
        try:
            for message in Reader(self.stream, self.rules.limits):
                start = start or time.perf_counter()
                before = self.images
                self._arriving.take(message)
                if self.images > before:
                    self.last_in = time.perf_counter()
        except ProtocolError as error:
            return error
        finally:
            if self.images:
                seconds = max(self.last_in - (start or self.last_in), 1e-6)
                mib = sum(r.image.pixels.nbytes for r in self._arriving.received) / MIB
                self.log.event(
                    "mrd.received", study=self.study, images=self.images, mib=mib, seconds=seconds,
                    mib_per_s=mib / seconds,
                )  # fmt: skip
        return None

    def _answer(self, trouble: ProtocolError | None) -> str:
        arriving = self._arriving
        if trouble is not None:
            raise trouble
        if not arriving.received:
            if arriving.raw:
                kinds = ", ".join(f"{n} {kind}" for kind, n in arriving.raw.items())
                raise ReconstructionError(
                    f"raw data came ({kinds}) and no images; this server takes images: emit those"
                )
            if arriving.fault is not None:
                raise arriving.fault
            self._text("WRN no images came; nothing was done")
            return "empty"
        if arriving.raw:
            arriving.warn([f"raw data were not used ({', '.join(arriving.raw)})"])
        granted = self._granted()
        if arriving.recipe and granted is None:
            arriving.warn([denial(arriving.recipe, self.rules.recipes)])
        begun = time.perf_counter()
        studies = arriving.studies()
        read_s = time.perf_counter() - begun
        taken: list[int] = []
        for number, study in enumerate(studies):
            early, arriving.opened = arriving.opened, None
            future = self._submit(study, early if number == 0 else None, granted)
            if arriving.parameters.send_original:
                self._send_originals()
            answer = self._result(future)
            taken.append(unused_series(arriving.received, taken))
            self._send_map(study, answer, taken[-1])
            tail_s = time.perf_counter() - self.last_in
            self.log.event(
                "mrd.answered", study=self.study, recipe=answer.recipe, asked=arriving.recipe or None,
                late=answer.late, read_s=read_s, all_s=answer.record.get("all_s"),
                overlapped_s=answer.record.get("overlapped_s"), tail_s=tail_s,
            )  # fmt: skip
        self._warnings()
        return "answered"

    def _granted(self) -> str | None:
        return self.rules.granted(self._arriving.recipe)

    def _submit(self, study: Study, early: Early | None, recipe: str | None) -> Future[Answer]:
        until = time.monotonic() + self.rules.busy_s
        while True:
            try:
                return self.core.submit(study.acquisition, self.study, early=early, recipe=recipe)
            except Busy:
                if time.monotonic() > until:
                    raise
                time.sleep(AGAIN_S)

    def _result(self, future: Future[Answer]) -> Answer:
        try:
            return future.result(self.rules.answer_s)
        except TimeoutError:
            future.cancel()
            raise ReconstructionError(f"no answer within {self.rules.answer_s:g} s; the images are untouched") from None
        except CancelledError:
            raise ReconstructionError("the reconstruction was given up; the images are untouched") from None

    def _send_originals(self) -> None:
        if not self._sent:
            self._sent = True
            for image in originals(self._arriving.received):
                write_image(self.stream, image)

    def _send_map(self, study: Study, answer: Answer, series_index: int) -> None:
        parameters, chi_ppm = self._arriving.parameters, answer.result.chi_ppm
        self._arriving.warn([*study.acquisition.warnings, *answer.result.warnings])
        clipped = ENCODINGS[parameters.data_type].clipped(chi_ppm)
        if clipped:
            self._arriving.warn([f"{clipped} voxels lie beyond what {parameters.data_type} holds and were clipped"])
        said = said_of(study, answer, clipped, parameters.data_type, self._arriving.recipe)
        images = susceptibility_images(study, chi_ppm, parameters.data_type, series_index, parameters.window_ppb, said)
        for image in images:
            write_image(self.stream, image)

    def _refuse(self, error: QsmError) -> None:
        """Say why there is no map; the images go back alone."""
        self.outcome = "refused"
        self.log.event(
            "mrd.refused", level="error", study=self.study, kind=type(error).__name__, reason=str(error),
            images=self.images,
        )  # fmt: skip
        try:
            self._text(f"ERR {error}")
            self._send_originals()
            self._warnings()
        except ProtocolError as gone:
            self._gone(gone)
        if isinstance(error, Ended):  # it may have closed its own half only
            self.outcome = "gone"

    def _gone(self, error: ProtocolError) -> None:
        self.outcome = "gone"
        self.log.event("mrd.gone", level="warning", study=self.study, reason=str(error), images=self.images)

    def _warnings(self) -> None:
        for text in self._arriving.warnings[:MANY]:
            self._text(f"WRN {text}")

    def _text(self, text: str) -> None:
        write_text(self.stream, in_parameters(text))

    def _last_words(self, text: str) -> None:
        """A text, or CLOSE where it is empty; nobody may be there any more."""
        act: Callable[[], None] = (lambda: self._text(text)) if text else (lambda: write_close(self.stream))
        try:
            act()
        except ProtocolError:
            return
