"""Each benchmark runs on a tiny input, keeps its schema, and sets an accuracy beside every time."""

# ruff: noqa: E402  (benchmarks are no part of the package: they are found from the checkout's root)

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from patience import PATIENCE_S

from benchmarks import cases, kernels, methods, report, robustness
from benchmarks.inputs import Inputs, grid_of, phantom, wrap
from qsm_runtime import bench, stages
from qsm_runtime.errors import UsageError
from qsm_runtime.phantom import simulate_head

SIZE = "32,36,32@6"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Prepared inputs go to a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSM_BENCH_CACHE", str(tmp_path_factory.mktemp("bench")))
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Records of a tiny run of methods and kernels in child processes, and of robustness, in one file."""
    path = tmp_path_factory.mktemp("results") / "all.jsonl"
    tiny = ["--threads", "1", "--repeats", "2", "--budget-s", "300", "-q", "-o", str(path)]
    assert methods.main(["--sizes", SIZE, "--method", "lbv,tkd", "--no-peers", *tiny]) == 0
    assert kernels.main(["--sizes", SIZE, "--kernel", "convolve", *tiny]) == 0
    wanted = ["--stage", "inversion,recipe", "--method", "tikhonov,fast", "-q", "-o", str(path)]
    assert robustness.main(["--set", "tiny", *wanted]) == 0
    return bench.read(path), path


def test_every_time_has_its_accuracy_memory_and_yardsticks(results):
    timed = [r for r in results[0] if r["kind"] != "robustness"]
    assert [r["case"].get("method") or r["case"]["kernel"] for r in timed] == ["lbv", "tkd", "convolve"]
    for r in timed:
        assert r["schema"] == bench.SCHEMA
        assert r["status"] == "ok"
        assert r["accuracy"]
        assert all(np.isfinite(v) for v in r["accuracy"].values())
        t, sticks = r["time"], r["yardstick"]
        assert len(t["warm_s"]) == len(t["warm_cpu_s"]) == 2
        assert t["min_s"] <= t["p25_s"] <= t["median_s"] <= t["p75_s"] <= t["max_s"]
        assert t["median_s"] == pytest.approx(np.median(t["warm_s"]))
        assert t["first_s"] > 0
        assert r["relative"]["fft_pairs"] == pytest.approx(t["median_s"] / np.median(sticks["fft_pair_s"]))
        assert r["relative"]["copies"] == pytest.approx(t["median_s"] / np.median(sticks["copy_s"]))
        assert {"average", "steal_share", "others_share", "noisy"} <= set(r["load"])
        assert {"cpu", "cores", "versions"} <= set(r["environment"])
        if sys.platform == "linux":
            assert 0 < r["memory"]["baseline_mib"] <= r["memory"]["peak_mib"]


def test_kernels_and_methods_are_right_on_their_own_inputs(results):
    by_name = {r["case"].get("kernel") or r["case"]["method"]: r for r in results[0] if r["kind"] != "robustness"}
    assert by_name["convolve"]["accuracy"]["relative_error"] < 1e-5
    assert by_name["lbv"]["accuracy"]["correlation"] > 0.5
    assert by_name["tkd"]["accuracy"]["correlation"] > 0.5
    assert 0 < by_name["lbv"]["accuracy"]["xsim_full"] <= 1


def test_robustness_sweeps_round_the_automatic_value(results):
    swept = [r for r in results[0] if r["kind"] == "robustness" and r["case"]["factor"] is not None]
    assert sorted(r["case"]["factor"] for r in swept) == list(robustness.FACTORS)
    base = next(r["chosen"]["regularisation"] for r in swept if r["case"]["factor"] == 1)
    assert all(r["chosen"]["regularisation"] == pytest.approx(base * r["case"]["factor"]) for r in swept)
    plain = [r for r in results[0] if r["kind"] == "robustness" and r["case"]["factor"] is None]
    assert [r["case"]["method"] for r in plain] == ["tikhonov", "fast"]
    assert all("xsim" in r["accuracy"] for r in plain)


def test_report_holds_every_case_and_its_figure(results, tmp_path):
    again = tmp_path / "more.jsonl"
    failed = {"kind": "method", "status": "crashed", "error": "exit code 1", "environment": bench.environment()}
    case = {"stage": "inversion", "method": "gone", "variant": "default", "options": {}, "threads": 1, "size": SIZE}
    bench.append(again, {**failed, "case": case})
    assert report.main([str(results[1]), str(again), "-o", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    for word in ("| background | lbv |", "| inversion | tkd |", "| kernel | convolve |", "XSIM", "| recipe | fast |"):
        assert word in text
    assert "| inversion | gone | | | | | | | crashed: exit code 1 |" in text
    pictures = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert pictures
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


def test_growth_and_speedup_are_fitted():
    def record(n, threads, seconds):
        case = {"stage": "inversion", "method": "m", "variant": "default", "threads": threads, "size": str(n)}
        return {
            "kind": "method",
            "status": "ok",
            "case": case,
            "grid": {"shape": [n] * 3},
            "time": {"median_s": seconds},
        }

    records = [record(n, t, 1e-6 * n**3.6 / t) for n in (50, 100, 200) for t in (1, 2)]
    assert report.growth(records)["inversion", "m"][2] == pytest.approx(1.2)
    assert report.speedup(records)["inversion", "m"] == pytest.approx(2)


def test_failures_become_records():
    crashed = bench.run_child([sys.executable, "-c", "raise SystemExit('no luck')"], limit_s=PATIENCE_S)
    assert crashed["status"] == "crashed"
    assert "no luck" in crashed["error"]
    late = bench.run_child([sys.executable, "-c", "import time; time.sleep(30)"], limit_s=0.5)
    assert late["status"] == "over_budget"
    spoken = bench.run_child([sys.executable, "-c", "print('hello'); print('{\"a\": 1}')"], limit_s=PATIENCE_S)
    assert (spoken["status"], spoken["a"]) == ("ok", 1)


def test_all_methods_are_picked_up_and_typos_are_not():
    found = methods.cases(list(stages.STAGES), [], peers=False)
    assert {(s, m) for s, m, _ in found} == {
        (s, m) for s in stages.STAGES for m in stages.methods(s) if m != cases.NETWORK
    }
    assert methods.cases(["inversion"], ["network"], peers=False) == [("inversion", "network", "default")]
    assert {v for s, _, v in found if s == "unwrap"} == {"one_echo", "all_echoes"}
    with pytest.raises(UsageError, match="lbv"):
        methods.cases(list(stages.STAGES), ["lbw"], peers=False)


def test_true_inputs_score_perfectly():
    """What each scorer says of the truth itself; and that one wrong turn is counted as one."""
    inputs = Inputs(phantom(grid_of(SIZE), seed=0))
    mask, size = inputs.mask, np.count_nonzero(inputs.mask)
    scored = {s: cases.prepare(s, inputs)[2] for s in stages.STAGES}
    assert scored["mask"](mask)["dice"] == 1
    assert scored["inversion"](inputs["chi_ppm"])["xsim"] == pytest.approx(1)
    assert scored["background"]((inputs["local_ppm"] * mask, mask))["xsim_full"] == pytest.approx(1)
    assert scored["field"]((inputs["carried_ppm"] + 0.3, None))["xsim"] == pytest.approx(1)
    turned = inputs.unwrapped_rad()
    before = scored["unwrap"](turned)["wrong_pct"]
    turned[1][tuple(np.argwhere(mask)[0])] += 8 * np.pi
    assert scored["unwrap"](turned)["wrong_pct"] - before == pytest.approx(100 / size / len(turned))
    # the phase less its offset is the field's: half the voxels far nearer than the noise of the worst
    rest = wrap(inputs.wrapped_rad([0])[0] - inputs.rad_per_ppm(0) * inputs["carried_ppm"])[mask]
    assert np.median(np.abs(rest)) < 0.05


def test_prepared_heads_are_kept_by_their_parameters():
    grid = grid_of("16,16,16@12")
    first, other = phantom(grid, seed=3), phantom(grid, seed=4)
    assert first != other
    assert phantom(grid, seed=3) == first
    head = simulate_head(grid, seed=3)
    assert np.array_equal(Inputs(first)["phase_rad"], head.scan.phase_rad)


def test_records_of_another_schema_are_refused(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps({"schema": "qsm-bench/0"}) + "\n")
    with pytest.raises(ValueError, match="schema"):
        bench.read(path)
