"""An MRD study through the real core: its map, and the work that was done before the last slice had come."""

import socket

import numpy as np
import pytest
from patience import PATIENCE_S
from serve_kit import Told

from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.mrd.client import Outgoing, converse
from qsm_runtime.io.mrd.streams import SocketStream
from qsm_runtime.phantom import simulate_head
from qsm_runtime.serve.core import Core, Settings
from qsm_runtime.serve.mrd_conversation import Rules
from qsm_runtime.serve.mrd_server import Listening, MrdServer
from qsm_runtime.simulated import placement_of


@pytest.fixture(scope="module")
def acquisition():
    grid = Grid((40, 48, 40), (4.4, 4.4, 4.8), (0.0, 0.0, 1.0))
    scan = simulate_head(grid, echo_times_s=(0.006, 0.014, 0.022), oversample=1).scan
    return Acquisition(scan, placement_of(grid), "head", (), "", 1, "", "")


def test_the_map_is_the_cores_and_echoes_were_worked_on_early(acquisition):
    log = Told()
    core = Core(Settings(recipe="fast", threads=1), log)
    core.start()
    try:
        wanted = core.submit(acquisition, "0123456789ab").result(PATIENCE_S).result.chi_ppm
        server = MrdServer(core, log, Listening(port=0, rules=Rules(recipes=("fast",))))
        server.start()
        try:
            outgoing = Outgoing(acquisition)
            with socket.create_connection((server.host, server.port)) as connection:
                reply = converse(SocketStream(connection, PATIENCE_S, PATIENCE_S), outgoing, {"datatype": "float32"})
            np.testing.assert_array_equal(reply.map_ppm(outgoing), wanted)
        finally:
            server.stop()
    finally:
        core.stop()
    (answered,) = log.events("mrd.answered")
    assert answered["overlapped_s"] > 0
    assert log.events("early_opened")
    assert reply.originals == 2 * 3 * 40
    assert not reply.errors
