"""Servers that look often whether they are to stop, and wait for nobody then: what they do does not depend on it."""

from collections.abc import Iterator

import pytest

from qsm_runtime.io.mrd import streams
from qsm_runtime.serve import dicom_node, mrd_server


@pytest.fixture(scope="session", autouse=True)
def soon_stopped() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (dicom_node, ("LISTEN_S", "PAUSE_S")),
            (mrd_server, ("ACCEPT_LOOK_S",)),
            (streams, ("LOOK_S",)),
        ):
            for name in names:
                patch.setattr(module, name, 0.02)
        yield
