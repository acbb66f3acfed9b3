"""Servers that look often whether they are to stop: what they do does not depend on how often."""

from collections.abc import Iterator

import pytest

from qsm_runtime.io.mrd import streams
from qsm_runtime.serve import dicom_node, mrd_server


@pytest.fixture(scope="session", autouse=True)
def soon_stopped() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((dicom_node, "LISTEN_S"), (mrd_server, "ACCEPT_LOOK_S"), (streams, "LOOK_S")):
            patch.setattr(module, name, 0.02)
        yield
