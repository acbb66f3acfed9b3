"""Noise, checks, budgets and reports on records made by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from qsm_runtime import bench
from qsm_runtime.benching import compare, noise, plots, sensors, suite, tables
from qsm_runtime.benching.page import page
from qsm_runtime.cli import main

ENVIRONMENT = {
    "cpu": "Test <CPU>", "cores": 4, "memory_mib": 8192, "system": "Test 1", "versions": {"python": "3.12"},
    "gpu": {"absent": "no NVIDIA driver"},
}  # fmt: skip
QUIET = {"steal_share": 0.0, "others_share": 0.01, "noisy": False}
BUSY = {"steal_share": 0.0, "others_share": 0.6, "noisy": True}


def made(name="default", median=2.0, *, size="small", threads=2, xsim=0.7, load=QUIET, peak=500.0, spread=0.002):
    runs = [[median * (1 - spread), median, median * (1 + spread)], [median, median]]
    warm = [t for one in runs for t in one]
    stages = {"mask": [0.25 * t for t in warm], "single_step": [0.75 * t for t in warm]}
    bound = {s: {"transforms": [], "fft_s": 0.4, "memory_s": 0.01, "share_of_bound": 0.3} for s in stages}
    return {
        "schema": bench.SCHEMA, "utc": "2030-01-01T00:00:00+00:00", "kind": "recipe", "status": "ok",
        "case": {"recipe": name, "size": size, "threads": threads, "device": "cpu", "precision": "f32",
                 "source": "phantom"},
        "time": {"first_s": 2 * median, "warm_s": warm, "by_process_s": runs, **bench.summary(warm),
                 "uncertainty_s": noise.uncertainty_s(runs), "first_slice_s": median},
        "memory": {"peak_mib": peak}, "load": load, "stages": {"first_s": {}, "warm_s": stages}, "bound": bound,
        "accuracy": {"xsim": xsim, "xsim_full": xsim, "correlation": 0.9, "slope": 1.0},
        "grid": {"shape": [96, 112, 96] if size == "small" else [164, 205, 205]}, "environment": ENVIRONMENT,
    }  # fmt: skip


def cold(name="default", total=5.0, **more):
    record = made(name, total, **more)
    breakdown = {"interpreter": 0.1, "imports": 1.0, "JIT load": 0.9, "first run": total - 2.0}
    case = {**record["case"], "caches": "filled"}
    return {**record, "kind": "cold", "case": case, "time": {**record["time"], "breakdown_s": breakdown}}


def test_uncertainty_of_steady_runs_is_the_least_share():
    assert noise.uncertainty_s([[2.0, 2.0, 2.0]]) == pytest.approx(0.02)


def test_uncertainty_covers_processes_that_differ():
    assert noise.uncertainty_s([[1.0, 1.0], [1.2, 1.2]]) >= 0.1


def test_uncertainty_covers_the_true_median():
    """Of normal runs, the stated range holds the truth nearly always, and shrinks with their number."""
    rng = np.random.default_rng(0)
    few, many = ([noise.uncertainty_s([10 + rng.normal(size=n)]) for _ in range(200)] for n in (8, 128))
    assert np.median(many) < np.median(few) / 2
    held = []
    for _ in range(300):
        runs = 10 + rng.normal(size=21)
        held.append(abs(np.median(runs) - 10) <= noise.uncertainty_s([runs]))
    assert np.mean(held) > 0.85


def test_a_single_run_says_little():
    assert noise.uncertainty_s([[3.0]]) == pytest.approx(0.3)


def test_busy_machine_is_named_with_a_remedy():
    assert noise.quality(made()) == ""
    said = noise.quality(made(load=BUSY))
    assert "60 %" in said
    assert "run again" in said
    stolen = {"steal_share": 0.3, "others_share": 0.0, "noisy": True}
    assert "steal" in noise.quality(made(load=stolen))


def test_throttling_is_named():
    assert "throttled" in noise.quality({**made(), "thermal": {"throttled": True}})
    before, after = ({"celsius": 50.0, "clock_mhz": None, "throttlings": n} for n in (3, 5))
    assert sensors.between(before, after)["throttled"] is True


def test_check_holds_on_the_same_and_fails_on_a_regression():
    old = [made(), made("fast", 1.0)]
    assert not any(v.failed for v in compare.check([made(median=2.05), made("fast", 1.0)], old))
    verdicts = compare.check([made(median=2.6), made("fast", 1.0)], old)
    assert [v.failed for v in verdicts] == [True, False]
    assert "slower" in verdicts[0].said


def test_check_allows_what_noise_explains_and_no_more():
    old = [made()]
    assert not compare.check([made(median=2.6, load=BUSY)], old)[0].failed
    assert "undecided" in compare.check([made(median=2.6, load=BUSY)], old)[0].said
    assert compare.check([made(median=9.0, load=BUSY)], old)[0].failed


def test_check_fails_where_accuracy_or_memory_is_lost():
    assert "less accurate" in compare.check([made(xsim=0.65)], [made()])[0].said
    assert "more memory" in compare.check([made(peak=700.0)], [made()])[0].said
    assert compare.check([{**made(), "status": "crashed", "error": "x"}], [made()])[0].failed


def test_budget_prefers_the_most_accurate_that_fits():
    records = [made("fast", 1.0, xsim=0.6), made("default", 2.0, xsim=0.7), made("best", 9.0, xsim=0.8)]
    records += [cold("fast", 2.5), cold("default", 5.0)]
    found = compare.fits(records, 3.0)
    assert [f.recipe for f in found] == ["default", "fast", "best"]
    assert [f.fits for f in found] == ["yes, in a running process", "yes, also as a fresh command", "no"]
    assert "What fits 3 s" in compare.budget_table(found, 3.0).title


def test_a_time_that_might_be_over_the_budget_does_not_fit():
    assert compare.fits([made(median=2.9, load=BUSY)], 3.0)[0].fits == "no"


def test_side_by_side_gives_ratios_to_the_first():
    table = compare.side_by_side({"a": [made()], "b": [made(median=4.0)], "c": [made("fast")]})
    assert table.columns[4:7] == ("a", "b", "c")
    assert table.rows[0][4:7] == ("2", "4 (×2.00)", "")


def test_later_records_replace_earlier_ones():
    assert [r["time"]["median_s"] for r in tables.latest([made(), made(median=3.0)])] == [3.0]


def test_no_time_stands_without_its_accuracy():
    table = tables.times([made(), {**made("fast"), "accuracy": {}}])
    assert table.columns[-1] == "accuracy"
    assert [row[-1][:9] for row in table.rows] == ["XSIM 0.70", "no truth"]


def test_failures_are_listed_with_their_reason():
    broken = {**made(), "status": "over_budget", "error": "ended after 9 s"}
    assert "ended after 9 s" in tables.times([broken]).rows[0][-1]


def test_markdown_names_doubts_and_the_machine():
    text = tables.markdown([made(load=BUSY), cold()])
    assert "Test <CPU>" in text
    assert "1 of 2 cases" in text
    assert "## Cold start" in text
    assert all(line.count("|") >= 5 for line in text.splitlines() if line.startswith("| "))


RECORDS = [
    made(), made("fast", 1.0, xsim=0.6), made(threads=1, median=3.8), made(size="research", median=9.0), cold(),
]  # fmt: skip


def test_page_needs_nothing_else_and_escapes():
    text = page(RECORDS)
    assert "Test &lt;CPU&gt;" in text
    assert text.count("<svg") == 6
    assert text.count("</svg>") == 6
    assert not re.search(r'(src|href)="(?!#)', text.replace("xlink:href", "href"))
    assert "<script" not in text
    assert "@media print" in text


def test_figures_of_nothing_are_none():
    assert plots.figures([]) == []


def test_figures_do_not_change_with_the_clock():
    assert plots.figures(RECORDS) == plots.figures(RECORDS)


def test_records_of_processes_are_merged_with_every_raw_time():
    both = [
        {"status": "ok", "time": {"first_s": 3.0, "warm_s": [1.0, 1.1], "harness_s": 1e-6}, "load": QUIET,
         "memory": {}, "yardstick": {"fft_pair_s": [0.1], "copy_s": [0.01]}},
        {"status": "ok", "time": {"first_s": 5.0, "warm_s": [1.3]}, "load": BUSY, "memory": {},
         "yardstick": {"fft_pair_s": [0.1], "copy_s": [0.01]}},
    ]  # fmt: skip
    record = suite.merged(both)
    assert record["time"]["warm_s"] == [1.0, 1.1, 1.3]
    assert record["time"]["firsts_s"] == [3.0, 5.0]
    assert record["time"]["by_process_s"] == [[1.0, 1.1], [1.3]]
    assert record["time"]["harness_share"] < 0.02
    assert record["load"]["noisy"]


def write(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_check_command_exits_8_on_a_regression(tmp_path, capsys):
    old = write(tmp_path / "old.jsonl", [made()])
    assert main(["bench", "check", str(old), "--baseline", str(old)]) == 0
    new = write(tmp_path / "new.jsonl", [made(median=3.0)])
    capsys.readouterr()
    assert main(["bench", "check", str(new), "--baseline", str(old), "--json"]) == 8
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["failed"] is True
    assert main(["bench", "check", str(new), "--baseline", str(write(tmp_path / "e.jsonl", []))]) == 3


def test_compare_and_report_commands(tmp_path, capsys):
    a, b = write(tmp_path / "a.jsonl", [made()]), write(tmp_path / "b.jsonl", [made(median=4.0)])
    html = tmp_path / "both.html"
    assert main(["bench", "compare", str(a), str(b), "--html", str(html)]) == 0
    assert "×2.00" in capsys.readouterr().out
    assert "×2.00" in html.read_text()
    assert main(["bench", "--from", str(a), "--budget-s", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fits"][0]["fits"] is True
    assert main(["bench", "compare", str(a)]) == 2
    assert main(["bench", "--from", str(tmp_path / "none.jsonl")]) == 3
    (tmp_path / "bad.jsonl").write_text("not json\n")
    assert main(["bench", "--from", str(tmp_path / "bad.jsonl")]) == 3
