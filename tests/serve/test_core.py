"""The warm core: the same voxels as the plain call, one study at a time, a bounded queue, a clean end."""

import gc
import json
import os
import signal
import time
from concurrent.futures import wait
from dataclasses import replace
from importlib.resources import files
from io import StringIO

import numpy as np
import pytest
from core_kit import GRID, PLANS, THREADS, ColdCore, WarmCore, acquisition_of, assert_same, expected, give, head
from patience import PATIENCE_S, until
from serve_kit import Told

from qsm_runtime import Scan, load_recipe, reconstruct
from qsm_runtime.errors import InputError, ReconstructionError, UsageError
from qsm_runtime.serve.core import Busy, Settings
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.memory import held_mib

WARM_SHAPE = (40, 44, 40)


@pytest.fixture(scope="module")
def core():
    expected("default"), expected("fast")
    core = WarmCore(Settings(threads=THREADS, queue=2, warm_shapes=(WARM_SHAPE,)), Told())
    core.start()
    yield core
    core.stop()


def test_bit_for_bit_and_recorded(core) -> None:
    assert core.ready
    answer = core.submit(acquisition_of(head().scan), "a1").result(PATIENCE_S)
    assert_same(answer.result, expected("default"))
    assert answer.result.warnings == expected("default").warnings
    assert (answer.recipe, answer.late) == ("default", False)
    assert answer.record["attempts"] == 1
    assert answer.record["overlapped_s"] == 0
    assert 0 <= answer.record["queue_s"] < answer.record["all_s"]
    assert set(answer.record["seconds"]) >= {"mask", "unwrap", "field", "single_step"}
    assert sum(answer.record["seconds"].values()) < answer.record["all_s"]
    assert answer.record["peak_mib"] is None or 50 < answer.record["peak_mib"] < 1000
    state = core.state()
    assert state["last_s"] == answer.record["all_s"]
    assert (state["queued"], state["failed"], state["restarts"]) == (0, 0, 0)


def test_what_a_shape_takes_is_known_before_the_first_study(core) -> None:
    for recipe in ("default", "fast"):
        seconds = core._supervisor._pace.expected(recipe, (4, *WARM_SHAPE))
        assert set(seconds) >= {"mask", "field", "single_step", "between"}
        assert min(seconds.values()) >= 0


def test_what_the_scan_lacks_and_the_user_gives_arrives(core, monkeypatch) -> None:
    phase_rad = head().scan.phase_rad.copy()
    phase_rad[2, 20:23, 20:23, 20] = np.nan
    scan = replace(head().scan, phase_rad=phase_rad)
    mask = head().truth.mask
    answer = core.submit(acquisition_of(scan, mask), "a2").result(PATIENCE_S)
    monkeypatch.setenv("QSM_CACHE_DIR", os.environ[PLANS])  # the mask's box is new: the worker's plan of it
    wanted = reconstruct(scan, load_recipe("default"), mask=mask)
    assert_same(answer.result, wanted)
    assert answer.result.warnings == wanted.warnings
    assert "not finite" in answer.result.warnings[0]
    assert answer.result.record["recipe"]["mask"] == {"method": "user"}


def test_a_study_that_cannot_be_reconstructed_is_refused_with_its_reason(core) -> None:
    pid = core.state()["worker_pid"]
    with pytest.raises(ReconstructionError, match="mask is empty"):
        core.submit(acquisition_of(head().scan, np.zeros(GRID.shape, bool)), "a3").result(PATIENCE_S)
    assert core.state()["worker_pid"] == pid  # it was the study's fault


def test_a_full_queue_says_busy(core) -> None:
    study = acquisition_of(head().scan)
    pid = core.state()["worker_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        first = core.submit(study, "b1")
        until(lambda: core.state()["running"] == "b1")
        others = [core.submit(study, "b2"), core.submit(study, "b3")]
        begun = time.monotonic()
        assert core.state()["queued"] == 2
        with pytest.raises(Busy, match="2 studies are waiting"):
            core.submit(study, "b4")
        assert others[1].cancel()
        time.sleep(0.2)
        waited_s = time.monotonic() - begun
    finally:
        os.kill(pid, signal.SIGCONT)
    wait([first, *others], PATIENCE_S)
    assert first.result().result.chi_ppm.tobytes() == others[0].result().result.chi_ppm.tobytes()
    assert others[0].result().record["queue_s"] > waited_s
    assert core.state()["worker_pid"] == pid


def test_twenty_studies_leave_no_memory_behind(core) -> None:
    small = Scan(
        head().scan.magnitude[:2, ::2, ::2, ::2],
        head().scan.phase_rad[:2, ::2, ::2, ::2],
        head().scan.echo_times_s[:2],
        head().scan.b0_tesla,
        replace(GRID, shape=tuple(-(-n // 2) for n in GRID.shape), voxel_mm=(8.0, 8.0, 8.0)),
    )
    study = acquisition_of(small, np.ascontiguousarray(head().truth.mask[::2, ::2, ::2]))
    held, descriptors = [], []
    for number in range(20):
        core.submit(study, f"c{number}").result(PATIENCE_S)
        gc.collect()
        held.append((core.state()["memory_mib"] or 0.0, held_mib(os.getpid()) or 0.0))
        descriptors.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
    for process in range(2):
        assert held[-1][process] < held[4][process] + 8
    assert descriptors[-1] <= descriptors[0]


def test_stopping_finishes_what_was_taken() -> None:
    lines = StringIO()
    core = ColdCore(Settings(recipe="fast", threads=THREADS), StudyLog(lines))
    core.start()
    pid = core.state()["worker_pid"]
    taken = [core.submit(acquisition_of(head().scan), f"d{n}") for n in range(2)]
    core.stop()
    for future in taken:
        assert_same(future.result(0).result, expected("fast"))
    assert not core.ready
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(Busy, match="stopping"):
        core.submit(acquisition_of(head().scan), "d2")
    core.stop()  # again does nothing
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["worker_ready", "reconstructed", "reconstructed"]
    assert told[1]["seconds"]["single_step"] > 0
    assert told[1]["study"] == "d0"


def test_stopping_waits_no_longer_than_asked() -> None:
    core = ColdCore(Settings(recipe="fast", threads=THREADS), Told())
    core.start()
    pid = core.state()["worker_pid"]
    os.kill(pid, signal.SIGSTOP)
    running, waiting = (core.submit(acquisition_of(head().scan), f"e{n}") for n in range(2))
    until(lambda: core.state()["running"] == "e0")
    core.stop(drain_s=0.1)
    with pytest.raises(ReconstructionError, match="killed"):
        running.result(0)
    with pytest.raises(ReconstructionError, match="stopped before"):
        waiting.result(0)
    assert not os.path.exists(f"/proc/{pid}")


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="recipe"):
        Settings(recipe="defualt")
    with pytest.raises(InputError, match="cannot read"):
        Settings(cheaper="nowhere.toml")
    with pytest.raises(UsageError, match="deadline"):
        Settings(deadline_s=0)
    with pytest.raises(UsageError, match="queue"):
        Settings(queue=0)
    with pytest.raises(UsageError, match="three sizes"):
        Settings(warm_shapes=((8, 64, 64),))


def test_a_worker_that_cannot_start_is_said_at_once() -> None:
    core = ColdCore(Settings(threads=10_000), Told())
    with pytest.raises(UsageError, match="threads"):
        core.start()
    assert not core.ready
    core.stop()


def test_a_study_may_ask_for_a_recipe(core) -> None:
    assert core.recipes == ("default", "fast") == tuple(core.state()["recipes"])
    for recipe in ("fast", "default"):
        answer = core.submit(acquisition_of(head().scan), "r1", recipe=recipe).result(PATIENCE_S)
        assert_same(answer.result, expected(recipe))
        assert (answer.recipe, answer.late) == (recipe, False)
        assert answer.result.warnings == expected(recipe).warnings
    for ask in (
        lambda: core.submit(acquisition_of(head().scan), "r2", recipe="best"),
        lambda: core.early("r2", "best"),
    ):
        with pytest.raises(UsageError, match="best is not allowed here; allowed are default, fast"):
            ask()


@pytest.mark.parametrize("early_recipe", ["fast", None])
def test_work_ahead_is_used_only_where_it_was_by_the_recipe_that_is_asked_for(core, early_recipe) -> None:
    scan, early = head().scan, core.early("r3", early_recipe)
    for index in range(scan.n_echoes):
        give(early, scan, index)
    answer = core.submit(acquisition_of(scan), "r3", early=early, recipe="fast").result(PATIENCE_S)
    assert_same(answer.result, expected("fast"))
    assert answer.recipe == "fast"
    assert (answer.record["overlapped_s"] > 0) == (early_recipe == "fast")


def test_recipes_that_may_be_asked_for_have_names_of_their_own(tmp_path) -> None:
    (tmp_path / "fast.toml").write_text((files("qsm_runtime.recipes") / "best.toml").read_text())
    (tmp_path / "site.toml").write_text((files("qsm_runtime.recipes") / "fast.toml").read_text())
    site = str(tmp_path / "site.toml")
    assert Settings(allowed=("best", site)).named == {
        "default": "default",
        "fast": "fast",
        "best": "best",
        "site": site,
    }
    with pytest.raises(UsageError, match="two recipes are called fast"):
        Settings(allowed=(str(tmp_path / "fast.toml"),))
    with pytest.raises(UsageError, match="unknown recipe"):
        Settings(allowed=("quickest",))
