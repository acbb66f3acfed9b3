"""A real run on a tiny head, each case in a process of its own; and the counting of transforms."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from qsm_runtime import bench
from qsm_runtime.benching import inputs, machine, suite
from qsm_runtime.cli import main
from qsm_runtime.errors import UsageError
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.threads import AVAILABLE

SIZE = "40,48,40@4"


def test_transforms_are_counted_by_stage_and_shape():
    plan = fft.plan((8, 8, 8))
    before = fft.Plan.forward
    transforms = machine.Transforms()
    with transforms.counted():
        transforms.stage = "inversion"
        plan.inverse(plan.forward(np.ones((8, 8, 8), np.float32)))
    plan.forward()
    assert transforms.count == {("inversion", (8, 8, 8)): 2}
    assert fft.Plan.forward is before


def test_the_bound_grows_with_transforms_and_traffic():
    transforms = machine.Transforms()
    transforms.count["inversion", (16, 16, 16)] = 10
    took = {"inversion": 1.0, "mask": 1.0}
    found = machine.bounds(transforms, took, echoes=4, voxels=10**6, gb_per_s=10.0)
    assert found["inversion"]["fft_s"] > 0
    assert found["mask"]["fft_s"] == 0
    assert found["mask"]["memory_s"] == pytest.approx(4 * 10**6 * 9 / 1e10)
    assert 0 < found["inversion"]["share_of_bound"] <= 1


def test_sizes_by_name_and_number():
    assert inputs.grid_of("40,48,44@2,2,3").voxel_mm == (2, 2, 3)
    assert inputs.grid_of("32@2").shape == (32, 32, 32)
    with pytest.raises(UsageError, match="small, clinical, research"):
        inputs.grid_of("huge")


def test_a_plan_runs_the_first_recipe_with_every_thread_count():
    plan = suite.Plan({"a": ({}, (8, 8, 8))}, ["fast", "default"], [1, 2], new_machine=True)
    cases = list(plan.cases())
    assert [c["threads"] for c in cases if c["kind"] == "recipe"] == [1, 2, 2]
    assert [c["caches"] for c in cases if c["kind"] == "cold"] == ["filled", "empty", "filled"]
    assert [c["kind"] for c in cases[:2]] == ["machine", "machine"]


def test_a_child_that_fails_is_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path))
    said = suite.child({"kind": "recipe", "threads": AVAILABLE, "recipe": "fast", "input": {"head": "no.npz"}}, 60)
    assert said["status"] == "crashed"
    assert "no.npz" in said["error"]


def test_harness_costs_next_to_nothing():
    """A call of 20 ms inside the harness and by itself: the clocks' own cost is under 2 %."""

    def work() -> float:
        start = time.process_time()
        while time.process_time() - start < 0.02:
            pass
        return time.process_time() - start

    record, _ = bench.measure(work, (8, 8, 8), repeats=5, budget_s=5)
    assert np.median(record["time"]["warm_cpu_s"]) < 1.02 * 0.0204


@pytest.mark.skipif(bench.Ticks.now().busy is None, reason="the system does not tell what else it does")
def test_a_loaded_machine_is_recognised():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.3)
        start = bench.Ticks.now()
        time.sleep(1.0)
        load = bench.load_between(start, bench.Ticks.now())
        busy.kill()
    assert load["others_share"] > 0
    assert load["noisy"] or load["others_share"] < bench.NOISY_OTHERS  # one of very many cores is not much
    if AVAILABLE <= 8:
        assert load["noisy"]


def test_run_writes_a_record_a_case_and_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path / "cache"))
    output, html, markdown = (tmp_path / name for name in ("run.jsonl", "run.html", "run.md"))
    code = main(
        ["bench", "-o", str(output), "--sizes", SIZE, "--recipe", "fast", "--networks", "none", "--repeats", "1",
         "--cold-runs", "1", "--limit-s", "20", "--threads", str(AVAILABLE), "--html", str(html), "--markdown",
         str(markdown), "--budget-s", "600", "-q"]
    )  # fmt: skip
    assert code == 0
    assert "What fits 600 s" in capsys.readouterr().out
    records = bench.read(output)
    assert [r["kind"] for r in records] == ["machine", "recipe", "cold"]
    assert all(r["status"] == "ok" for r in records), [r.get("error") for r in records]
    rates, warm, cold = records
    assert rates["rates"]["copy_gb_per_s"] > 0
    assert len(warm["time"]["warm_s"]) == 1
    assert warm["time"]["harness_share"] < 0.02
    assert warm["accuracy"]["xsim"] > 0.1
    assert set(warm["stages"]["warm_s"]) == set(warm["bound"])
    assert sum(t["count"] for t in warm["bound"]["single_step"]["transforms"]) > 10
    parts = cold["time"]["breakdown_s"]
    assert set(parts) >= {"imports", "JIT compile", "JIT load", "FFT plans", "model load", "first run"}
    assert sum(parts.values()) == pytest.approx(cold["time"]["total_s"], rel=0.02)
    assert cold["time"]["total_s"] >= cold["time"]["imports_s"]["numpy"]
    assert "<svg" in html.read_text()
    assert "Warm times" in markdown.read_text()
    json.dumps(records)
