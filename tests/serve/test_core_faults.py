"""A worker that is killed, crashes, hangs or has no memory; a deadline; a server that dies: each with its outcome."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from core_kit import GRID, THREADS, ColdCore, CrashingCore, acquisition_of, assert_same, expected, head
from patience import PATIENCE_S, until
from serve_kit import Told

from qsm_runtime.calls import Event
from qsm_runtime.errors import ReconstructionError
from qsm_runtime.serve import supervisor
from qsm_runtime.serve.core import Settings
from qsm_runtime.serve.pace import Course, Pace

SHAPE = (4, *GRID.shape)


@pytest.fixture(scope="module")
def core():
    expected("fast")
    core = ColdCore(Settings(threads=THREADS), Told())
    core.start()
    yield core
    core.stop()


def test_killed_at_work(core) -> None:
    before, lost = core.state()["worker_pid"], core.state()["restarts"]
    future = core.submit(acquisition_of(head().scan), "k1")
    until(lambda: core.state()["running"] == "k1")
    time.sleep(0.1)
    os.kill(before, signal.SIGKILL)
    answer = future.result(PATIENCE_S)
    assert_same(answer.result, expected("fast"))
    assert (answer.recipe, answer.late, answer.record["attempts"]) == ("fast", False, 2)
    assert "killed" in answer.result.warnings[-1]
    assert core.ready
    assert core.state()["restarts"] == lost + 1
    assert core.state()["worker_pid"] != before


def test_killed_at_rest(core) -> None:
    before = core.state()["worker_pid"]
    os.kill(before, signal.SIGKILL)
    until(lambda: core.state()["worker_pid"] not in (before, None))
    assert core.ready


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process can be set on Linux alone")
def test_no_memory(core) -> None:
    before = core.state()["worker_pid"]
    resource.prlimit(before, resource.RLIMIT_AS, (1 << 20, 1 << 20))  # less than it has: every new mapping fails
    answer = core.submit(acquisition_of(head().scan), "m1").result(PATIENCE_S)
    assert_same(answer.result, expected("fast"))
    assert answer.record["attempts"] == 2
    assert "out of memory" in answer.result.warnings[-1]
    assert core.state()["worker_pid"] != before


def test_hanging_beyond_the_deadline(monkeypatch) -> None:
    core = ColdCore(Settings(deadline_s=0.25, threads=THREADS), Told())
    core.start()
    os.kill(core.state()["worker_pid"], signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "GRACE_S", 0.5)
        answer = core.submit(acquisition_of(head().scan), "h1").result(PATIENCE_S)
    assert_same(answer.result, expected("fast"))
    assert (answer.recipe, answer.late, answer.record["attempts"]) == ("fast", True, 2)
    assert "did not answer" in answer.result.warnings[-1]
    # and, with the worker in order, a quarter of a second is too little for the recipe all the same
    monkeypatch.setattr(supervisor, "GRACE_S", PATIENCE_S)
    late = core.submit(acquisition_of(head().scan), "h2").result(PATIENCE_S)
    core.stop()
    assert_same(late.result, expected("fast"))
    assert (late.recipe, late.late, late.record["attempts"]) == ("fast", True, 1)
    assert "deadline" in late.result.warnings[-1]


def test_crashing_twice_says_why_and_the_server_stays() -> None:
    core = CrashingCore(Settings(threads=THREADS), Told())
    core.start()
    with pytest.raises(ReconstructionError, match=r"crashed \(SIGSEGV\) and, by the cheaper recipe, it crashed"):
        core.submit(acquisition_of(head().scan), "s1").result(PATIENCE_S)
    assert core.state()["failed"] == 1
    assert not core.state()["running"]
    core.stop()


def test_the_worker_ends_with_a_server_that_is_killed() -> None:
    server_of_its_own = (
        "from core_kit import ColdCore\n"
        "from qsm_runtime.serve.log import StudyLog\n"
        "from qsm_runtime.serve.core import Settings\n"
        "import sys\n"
        "if __name__ == '__main__':\n"
        "    core = ColdCore(Settings(), StudyLog(sys.stderr))\n"
        "    core.start()\n"
        "    print(core.state()['worker_pid'], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", server_of_its_own],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    worker = int(server.stdout.readline())
    os.kill(worker, 0)
    server.kill()
    server.communicate()

    def gone() -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    until(gone)


def test_a_recipe_that_would_be_late_is_seen_before_its_longest_stage() -> None:
    pace = Pace()
    assert pace.total_s("default", SHAPE) is None
    pace.learn("default", SHAPE, {"mask": 1.0, "field": 1.0, "single_step": 6.0}, 8.5)
    assert pace.total_s("default", SHAPE) == pytest.approx(8.5)
    double = (4, GRID.shape[0] * 2, *GRID.shape[1:])
    assert pace.total_s("default", double) == pytest.approx(17)
    assert pace.total_s("fast", SHAPE) is None

    course = Course(pace.expected("default", SHAPE))
    assert course.rest_s(Event("mask", "brain", 0.0, 0.0)) == pytest.approx(8.5)
    assert course.rest_s(Event("mask", "brain", 1.0, 2.0)) == pytest.approx(7.5)
    # twice as slow as ever before: so will be the rest
    assert course.rest_s(Event("field", "weighted", 0.0, 0.0)) == pytest.approx(15)
    assert course.rest_s(Event("field", "weighted", 1.0, 2.0)) == pytest.approx(13)
    # within a stage, its own steps say more than what was: 4 s for half of it
    course.rest_s(Event("single_step", "joint_tv", 0.25, 3.0))
    assert course.rest_s(Event("single_step", "joint_tv", 0.75, 7.0)) == pytest.approx(2 + 1)


def test_without_experience_only_a_stages_own_steps_count() -> None:
    course = Course(None)
    assert course.rest_s(Event("single_step", "joint_tv", 0.0, 0.0)) is None
    assert course.rest_s(Event("single_step", "joint_tv", 0.2, 1.0)) is None
    assert course.rest_s(Event("single_step", "joint_tv", 0.4, 2.0)) == pytest.approx(3.0)
    assert np.isfinite(course.rest_s(Event("single_step", "joint_tv", 1.0, 4.0)))


def test_pace_forgets_the_oldest_shapes() -> None:
    pace = Pace()
    for n in range(100):
        pace.learn("fast", (1, 32, 32, n + 16), {"mask": 1.0}, 1.0)
    assert len(pace.known) <= 32
