"""A real run on a tiny head, each case in a process of its own; and the counting of transforms."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

from qsm_runtime import bench
from qsm_runtime.benching import inputs, machine, noise, plan, records, suite
from qsm_runtime.cli import bench_plan, main
from qsm_runtime.errors import DeviceError, UsageError
from qsm_runtime.grid import Grid
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


TINY = {"a": ({}, (8, 8, 8))}


def test_a_plan_runs_the_first_recipe_with_every_thread_count():
    wanted = plan.Plan(TINY, ["fast", "default"], [1, 2], new_machine=True)
    cases = list(wanted.cases())
    assert [c["threads"] for c in cases if c["kind"] == "recipe"] == [1, 2, 2]
    assert [c["caches"] for c in cases if c["kind"] == "cold"] == ["filled", "empty", "filled"]
    assert [c["kind"] for c in cases[:2]] == ["machine", "machine"]


def test_networks_run_at_every_place_that_their_cards_allow(tmp_path):
    """And places of one thread count follow one another, since their maps are compared."""
    steps = {"mask": "brain", "offset": "none", "unwrap": "romeo", "field": "linear", "background": "lbv",
             "inversion": "network", "reference": "whole_mask"}  # fmt: skip
    text = "".join(f'[{stage}]\nmethod = "{name}"\n' for stage, name in steps.items())
    (tmp_path / "n.toml").write_text(text.replace('"network"', '"network"\nmodel = "dipole"'))
    places = [("ort-cpu", "f32"), ("openvino", "f32"), ("openvino", "bf16")]
    wanted = plan.Plan(TINY, [str(tmp_path / "n.toml"), "fast"], [1, 2], places, {"dipole": ("f32",)})
    cases = list(wanted.cases())
    recipe = [c for c in cases if c["kind"] == "recipe"]
    assert [(c["device"], c["threads"]) for c in recipe] == [
        ("ort-cpu", 1), ("openvino", 1), ("ort-cpu", 2), ("openvino", 2), ("cpu", 2),
    ]  # fmt: skip
    assert {c["precision"] for c in cases if "precision" in c} == {"f32"}
    assert [c["device"] for c in cases if c["kind"] == "model"] == ["ort-cpu", "openvino"]


def planned(**changed):
    options = {
        "scan": None, "select": None, "sizes": "8,8,8@1", "recipe": ["fast"], "methods": None, "networks": "none",
        "threads": "1", "device": None, "models": [], "repeats": 1, "cold_runs": 0, "new_machine": False,
        "limit_s": 1.0, "budget": False,
    }  # fmt: skip
    return bench_plan.planned(**(options | changed))


def test_a_device_that_was_named_and_is_not_here_is_refused(monkeypatch):
    """No other provider is measured in its place."""
    monkeypatch.setattr(bench_plan, "_inputs", lambda *a: TINY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError, match=r"--device ort-cpu,cuda cannot be met: cuda: .*; "):
        planned(device="ort-cpu,cuda")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        planned(device="gpu")
    assert planned().tried is None  # nothing runs a network, so nothing is tried


def test_what_is_not_here_is_said_where_nobody_named_it(monkeypatch):
    monkeypatch.setattr(bench_plan, "_inputs", lambda *a: TINY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    tried = planned(networks="dipole").tried
    assert ("ort-cpu", "f32") in tried["places"]
    assert "cuda" in tried["absent"]
    assert not any(place[0] == "cuda" for place in tried["places"])


def test_a_provider_that_takes_its_process_down_is_absent(monkeypatch):
    monkeypatch.setattr(bench, "run_child", lambda *a, **k: {"status": "crashed", "error": "exit code -11"})
    assert plan.available(["cuda"]) == {"places": [], "absent": {"cuda": "its process did not survive (exit code -11)"}}


def test_sizes_and_threads_that_cannot_be_are_refused(monkeypatch):
    monkeypatch.setattr(inputs, "head", lambda grid, seed=0: "head.npz")
    made = planned(sizes="32@2", threads="1").inputs
    assert made["32@2"][1] == (32, 32, 32)
    with pytest.raises(UsageError, match="--threads takes whole numbers"):
        planned(threads=f"{AVAILABLE + 1}")
    with pytest.raises(UsageError, match="method to measure"):
        planned(methods="inversion.nothing")
    assert ("inversion", "tkd") in planned(methods="all").methods


def test_a_child_that_fails_is_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path))
    said = suite.child(
        {"kind": "recipe", "threads": AVAILABLE, "recipe": "fast", "input": {"head": "no.npz"}}, PATIENCE_S
    )
    assert said["status"] == "crashed"
    assert "no.npz" in said["error"]


def test_a_case_that_the_library_refuses_is_a_record(tmp_path, monkeypatch):
    """A cold start of a network on a device that is not here: its error, and no traceback."""
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    head = {"head": str(inputs.head(Grid((24, 24, 24), (8.0, 8.0, 8.0))))}
    case = {"kind": "model", "model": "dipole", "threads": 1, "input": head, "device": "cuda", "repeats": 1}
    said = suite.child({**case, "limit_s": 1}, PATIENCE_S)
    assert said["status"] == "refused"
    assert "--device cuda cannot be met" in said["error"]


def test_harness_costs_next_to_nothing():
    """A call of 20 ms inside the harness and by itself: the clocks' own cost is under 2 %."""

    def work() -> float:
        start = time.process_time()
        while time.process_time() - start < 0.02:
            pass
        return time.process_time() - start

    record, _ = bench.measure(work, (8, 8, 8), repeats=5, budget_s=5)
    assert min(record["time"]["warm_cpu_s"]) < 1.02 * 0.0204  # the clocks are in every call


@pytest.mark.skipif(bench.Ticks.now().busy is None, reason="the system does not tell what else it does")
def test_a_loaded_machine_is_recognised():
    """Burners on every core beside a call that is measured: its record says so, with the remedy."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.3)
        record, _ = bench.measure(lambda: time.sleep(0.2), (8, 8, 8), repeats=3, budget_s=5)
    finally:
        for one in burners:
            one.kill()
            one.wait()
    assert record["load"]["noisy"]
    assert record["load"]["others_share"] + record["load"]["steal_share"] > 0.3
    record["time"]["uncertainty_s"] = noise.uncertainty_s([record["time"]["warm_s"]])
    said = noise.quality(record)
    assert "other processes used" in said or "steal" in said
    assert "run again" in said or "another hour" in said
    assert noise.doubt(record) > 0.3


@pytest.mark.skipif(bench.Ticks.now().busy is None, reason="the system does not tell what else it does")
def test_a_program_is_not_its_own_load():
    """Whatever else the machine does, what a call burns itself is not counted as other processes'."""
    start = bench.Ticks.now()
    while time.process_time() - start.own < 1.0:
        pass
    end = bench.Ticks.now()
    load = bench.load_between(start, end)
    everything = (end.busy - start.busy) / ((end.wall - start.wall) * os.cpu_count())
    own = (end.own - start.own) / ((end.wall - start.wall) * os.cpu_count())
    assert load["others_share"] == pytest.approx(max(0.0, everything - own), abs=0.01)
    assert load["others_share"] < everything


def test_a_scan_of_ones_own(tmp_path, monkeypatch, capsys):
    """BIDS with its truth beside it: accuracy stands beside the time."""
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path / "cache"))
    data, output = tmp_path / "data", tmp_path / "run.jsonl"
    assert main(["phantom", "-o", str(data), "--matrix", "40,48,40", "--voxel-mm", "4,4,4", "-q"]) == 0
    words = ["--recipe", "fast", "--networks", "none", "--repeats", "1", "--cold-runs", "0", "--threads", "1"]
    assert main(["bench", "--scan", str(data), "-o", str(output), *words, "--limit-s", str(PATIENCE_S), "-q"]) == 0
    assert "sub-sim" in capsys.readouterr().out
    _, record = bench.read(output)
    assert record["status"] == "ok", record.get("error")
    assert record["case"]["source"] == "data"
    assert record["accuracy"]["correlation"] > 0.4
    (tmp_path / "empty").mkdir()
    assert main(["bench", "--scan", str(tmp_path / "empty"), "-o", str(output), *words, "-q"]) == 3


def test_run_writes_a_record_a_case_and_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path / "cache"))
    output, html, markdown = (tmp_path / name for name in ("run.jsonl", "run.html", "run.md"))
    code = main(
        ["bench", "-o", str(output), "--sizes", SIZE, "--recipe", "fast", "--networks", "none", "--repeats", "1",
         "--cold-runs", "1", "--limit-s", str(PATIENCE_S), "--threads", str(AVAILABLE), "--html", str(html),
         "--markdown", str(markdown), "--budget-s", "600", "-q"]
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


SIEMENS = """
import sys
from pathlib import Path
from benchmarks.scanner_dicom import planes, write_study
from qsm_runtime.grid import Grid
from qsm_runtime.phantom import simulate_head
grid = Grid((40, 48, 40), (4.0, 4.0, 4.0))
scan = simulate_head(grid, echo_times_s=(0.004, 0.009, 0.014), oversample=1).scan
write_study(list(planes(scan, grid.voxel_mm, "echoes")), Path(sys.argv[1]))
"""


def test_a_dicom_folder_is_a_scan_of_ones_own(tmp_path, monkeypatch, capsys):
    """Its matrix is on record, and that there is no truth to hold the map against."""
    monkeypatch.setenv("QSM_BENCH_CACHE", str(tmp_path / "cache"))
    data, output = tmp_path / "data", tmp_path / "run.jsonl"
    root = Path(__file__).resolve().parents[2]  # benchmarks are no part of the package
    subprocess.run([sys.executable, "-c", SIEMENS, str(data)], cwd=root, check=True)
    words = ["--recipe", "fast", "--networks", "none", "--repeats", "1", "--cold-runs", "1", "--threads", "1"]
    assert main(["bench", "--scan", str(data), "-o", str(output), *words, "--limit-s", str(PATIENCE_S)]) == 0
    said = capsys.readouterr()
    _, warm, cold = bench.read(output)
    for record in (warm, cold):
        assert record["status"] == "ok", record.get("error")
        assert record["case"]["source"] == "data"
        assert record["accuracy"] == {}
        assert records.accuracy_of(record) == "no truth"
        assert not records.wrong(record)
        assert record["grid"]["shape"] == [40, 48, 40]
        assert record["grid"]["voxel_mm"] == [4.0, 4.0, 4.0]
    assert "no truth" in said.out
    assert "no truth" in said.err


BURN = """
import sys, time
while time.process_time() < 1:
    pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(bench.Ticks.now().busy is None, reason="the system does not tell what else it does")
def test_children_that_are_measured_are_no_load_beside_it():
    """A grandchild that burns a second of CPU: own while it runs and after it ended, where it is asked for."""
    with_it, alone = bench.Ticks.with_children(), bench.Ticks.now()
    words = [sys.executable, "-c", BURN]
    child = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({words!r})"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdout.readline()
    burnt, beside = bench.Ticks.with_children(), bench.Ticks.now()
    child.communicate()

    def others_s(start, end):
        return bench.load_between(start, end)["others_share"] * (end.wall - start.wall) * os.cpu_count()

    assert burnt.own - with_it.own > 0.9
    assert bench.Ticks.with_children().own >= burnt.own - 0.1
    assert others_s(alone, beside) - others_s(with_it, burnt) > 0.7
