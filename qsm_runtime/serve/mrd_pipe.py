"""One MRD study through a pair of pipes instead of a connection: a front end that ends the service when it is done."""

from __future__ import annotations

import _thread
import signal
import threading
from typing import Any, BinaryIO

from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.mrd_conversation import Conversation, Rules, Submits


class MrdPipe:
    """source, target: what the client writes to and reads from. outcome: as a conversation's, once it is over."""

    name = "mrd"

    def __init__(self, core: Submits, log: StudyLog, source: BinaryIO, target: BinaryIO, rules: Rules) -> None:
        self._stream = PipeStream(source, target)
        self._conversation = Conversation(self._stream, core, log, rules)
        self._thread = threading.Thread(target=self._hold, name="mrd-pipe", daemon=True)
        self.outcome = ""

    def start(self) -> None:
        self._thread.start()

    def accepting(self, yes: bool) -> None:
        """There is but the one study."""

    def stop(self) -> None:
        """Wait for the answer, unless nothing has come yet."""
        if self._conversation.images or self.outcome:
            self._thread.join()

    def state(self) -> dict[str, Any]:
        return {"where": "MRD on standard input", "images": self._conversation.images, "outcome": self.outcome}

    def _hold(self) -> None:
        try:
            self.outcome = self._conversation.hold()
            self._stream.flush()
        finally:
            _thread.interrupt_main(signal.SIGTERM)  # as if the operator had ended the service
