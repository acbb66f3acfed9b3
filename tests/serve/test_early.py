"""Echoes handed over early: work overlaps the arrival, and the voxels are those of the plain call all the same."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from core_kit import THREADS, ColdCore, UnplannedCore, acquisition_of, assert_same, expected, give, head
from patience import PATIENCE_S, until
from serve_kit import Told

from qsm_runtime import load_recipe, reconstruct
from qsm_runtime.errors import UsageError
from qsm_runtime.pipeline import measure
from qsm_runtime.serve.core import Settings
from qsm_runtime.serve.rehearse import in_time, once, rehearse


@pytest.fixture(scope="module")
def core():
    expected("fast", 3), expected("fast", 4)
    core = ColdCore(Settings(recipe="fast", threads=THREADS), Told())
    core.start()
    yield core
    core.stop()


def test_all_echoes_before_the_study_is_submitted(core) -> None:
    scan, early = head(3).scan, core.early("a1")
    for index in (1, 0, 3, 2):
        give(early, scan, index)
    worker = core.state()["worker_pid"]
    before_s = _cpu_s(worker)
    until(lambda: _cpu_s(worker) > before_s + 0.1)  # it is at work
    answer = core.submit(acquisition_of(scan), "a1", early=early).result(PATIENCE_S)
    assert_same(answer.result, expected("fast", 3))
    assert answer.record["overlapped_s"] > early.copied_s + 0.01
    assert answer.result.warnings == expected("fast", 3).warnings


def test_the_answer_may_be_there_before_the_question(core) -> None:
    scan, early = head(4).scan, core.early("b1")
    for index in range(4):
        give(early, scan, index)
    busy = core.state()["worker_pid"]
    until(lambda: _idle(busy))
    answer = core.submit(acquisition_of(scan), "b1", early=early).result(PATIENCE_S)
    assert_same(answer.result, expected("fast", 4))
    assert answer.record["overlapped_s"] >= sum(answer.record["seconds"].values())


def _cpu_s(pid: int) -> float:
    """Of all of its threads."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _idle(pid: int) -> bool:
    """All of its threads asleep for a while: at work, or waiting for a processor, one would be running."""
    for _ in range(10):
        time.sleep(0.03)
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        if set(states) != {"S"}:
            return False
    return True


def test_echoes_that_were_others_are_not_used(core) -> None:
    scan, early = head(3).scan, core.early("c1")
    for index in range(3):
        give(early, scan, index)
    phase_rad = scan.phase_rad[3].copy()
    phase_rad[20, 20, 20] = np.nextafter(phase_rad[20, 20, 20], np.float32(0))  # one bit of one voxel
    early.echo(3, scan.magnitude[3], phase_rad, grid=scan.grid, echo_times_s=scan.echo_times_s, b0_tesla=scan.b0_tesla)
    answer = core.submit(acquisition_of(scan), "c1", early=early).result(PATIENCE_S)
    assert_same(answer.result, expected("fast", 3))
    assert answer.record["overlapped_s"] == 0


def test_part_of_the_echoes_or_none_or_a_cancelled_study(core) -> None:
    scan = head(4).scan
    some, none, cancelled = core.early("d1"), core.early("d2"), core.early("d3")
    give(some, scan, 0)
    give(some, scan, 0)  # twice: which is right is not known
    for index in range(4):
        give(cancelled, scan, index)
    cancelled.cancel()
    for early in (some, none, cancelled):
        answer = core.submit(acquisition_of(scan), "d", early=early).result(PATIENCE_S)
        assert_same(answer.result, expected("fast", 4))
        assert answer.record["overlapped_s"] == 0


def test_two_studies_at_once(core) -> None:
    """Only one has the place in the worker; both are answered, each with its own voxels."""
    studies = [core.early("e1"), core.early("e2")]
    seeds = (3, 4)
    for index in range(4):
        for early, seed in zip(studies, seeds, strict=True):
            give(early, head(seed).scan, index)
    futures = {seed: core.submit(acquisition_of(head(seed).scan), "e", early=studies[seed - 3]) for seed in (4, 3)}
    for seed, future in futures.items():
        assert_same(future.result(PATIENCE_S).result, expected("fast", seed))


def test_a_rehearsal_plans_for_a_head_not_seen_before(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))  # the worker knows no plans
    core = UnplannedCore(Settings(recipe="fast", threads=THREADS), Told())
    core.start()
    scan, early = head(3).scan, core.early("g1")
    give(early, scan, 0)
    time.sleep(0.7)
    give(early, scan, 1)  # so the last can be expected after twice that time, and a rehearsal takes less
    until(lambda: any(tmp_path.iterdir()))
    until(lambda: _idle(core.state()["worker_pid"]))
    give(early, scan, 2)
    give(early, scan, 3)
    rehearsed = core.submit(acquisition_of(scan), "g1", early=early).result(PATIENCE_S)
    plain = core.submit(acquisition_of(scan), "g2").result(PATIENCE_S)
    core.stop()
    assert_same(rehearsed.result, plain.result)
    assert rehearsed.record["overlapped_s"] > 0
    assert plain.record["overlapped_s"] == 0


def test_a_rehearsal_ends_when_the_study_is_there() -> None:
    scan, events = head(3).scan, []

    def over() -> bool:
        events.append(time.monotonic())
        return len(events) == 3

    rehearse(scan, load_recipe("default"), None, over)
    assert len(events) == 3


def test_a_rehearsal_is_for_those_who_have_time() -> None:
    now, shape = time.monotonic(), (160, 192, 128)
    assert not in_time([now], 4, shape)  # one echo tells no pace
    assert not in_time([now - 0.1, now], 4, shape)
    assert in_time([now - 100, now], 4, shape)
    assert not in_time([now - 5, now], 2, shape)  # complete
    assert not in_time([now - 30, now - 25], 4, shape)  # the rest should have been here long ago


@pytest.mark.parametrize("name", ["default", "fast", "best"])
def test_a_rehearsal_iterates_once(name) -> None:
    recipe = once(load_recipe(name))
    assert recipe.steps["single_step"].options["iterations"] == (1, 1, 1)
    assert recipe.steps["mask"] == load_recipe(name).steps["mask"]


def test_echoes_without_a_place_in_the_worker_do_no_harm() -> None:
    core = ColdCore(Settings(threads=THREADS), Told())
    early = core.early("f1")  # the core was never started
    for index in range(4):
        give(early, head(3).scan, index)
    early.cancel()
    core.stop()


def test_recipes_with_the_same_field_share_it() -> None:
    scan, default, fast = head(3).scan, load_recipe("default"), load_recipe("fast")
    measured = measure(scan, fast)
    result, plain = reconstruct(scan, fast, measured=measured), expected("fast", 3)
    assert_same(result, plain)
    assert list(result.record["seconds"]) == list(plain.record["seconds"])
    assert_same(reconstruct(scan, default, measured=measured), expected("default", 3))
    other = default.with_option("mask", "brightness", 0.5)
    with pytest.raises(UsageError, match="measure it again"):
        reconstruct(scan, other, measured=measured)
    with pytest.raises(UsageError, match="measure it again"):
        reconstruct(head(4).scan, default, measured=measured)
