"""Noise, checks, budgets and reports on records made by hand."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from qsm_runtime import bench
from qsm_runtime.benching import budget, compare, noise, plots, records, sensors, suite, tables
from qsm_runtime.benching.page import beside, page
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
    assert "plug it in" in noise.quality({**made(), "environment": {**ENVIRONMENT, "power": {"on_battery": True}}})
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


def test_check_names_the_stage_that_took_the_time():
    new = made(median=2.0)
    slower = {"mask": [0.5] * 5, "single_step": [2.5] * 5}
    new = {**new, "time": made(median=3.0)["time"], "stages": {"first_s": {}, "warm_s": slower}}
    said = compare.check([new], [made()])[0].said
    assert "single_step +1 s" in said
    assert "mask" not in said


def test_check_says_what_it_could_not_hold_against_each_other():
    other = {**made(), "environment": {**ENVIRONMENT, "cores": 16}}
    assert compare.same_machine([made()], [made("fast")])
    assert not compare.same_machine([made()], [other])
    assert compare.unmeasured([made()], [made(), made("fast", 1.0)]) == ["fast (small, 2 threads)"]


def test_check_fails_where_an_answer_became_wrong():
    """Also without XSIM: a slope, a self-test."""
    new = {**made(), "accuracy": {**made()["accuracy"], "slope": 0.1}}
    assert "wrong: slope 0.10" in compare.check([new], [made()])[0].said


WRONG = [
    {"accuracy": {**made()["accuracy"], "correlation": 0.2}},
    {"accuracy": {**made()["accuracy"], "correlation": -0.9, "slope": -1.0}},
    {"accuracy": {**made()["accuracy"], "slope": 0.1}},
    {"accuracy": {**made()["accuracy"], "xsim": float("nan")}},
    {"accuracy": {"dice": 0.3}},
    {"self_test": {"error": 0.5, "holds": False}},
    {"agreement": {"relative_rms": 0.3, "max_abs": 1.0}},
]


@pytest.mark.parametrize("fault", WRONG, ids=lambda fault: "-".join(fault))
def test_a_fast_wrong_answer_is_not_listed_as_fast(fault):
    fast = {**made("fast", 0.1), **fault}
    assert records.wrong(fast)
    assert not records.wrong(made())
    table = tables.times([fast, made()])
    assert [row[0] for row in table.rows] == ["default", "fast"]
    assert table.rows[1][4] == "(0.1)"
    assert "WRONG" in table.rows[1][-1]
    found = budget.fits([fast, made()], 3.0)
    assert [(f.recipe, f.fits) for f in found] == [
        ("default", "yes, in a running process"),
        ("fast", "no: a wrong answer"),
    ]
    assert plots.against_accuracy([fast, made()]) is None  # one point is no comparison


def test_an_answer_of_lower_precision_may_differ_by_its_rounding():
    session = {"provider": "openvino", "precision": "bf16"}
    rounded = {**made(), "session": session, "agreement": {"relative_rms": 0.05, "max_abs": 0.01}}
    assert not records.wrong(rounded)
    assert records.wrong({**rounded, "session": {**session, "precision": "f32"}})


def test_budget_prefers_the_most_accurate_that_fits():
    measured = [made("fast", 1.0, xsim=0.6), made("default", 2.0, xsim=0.7), made("best", 9.0, xsim=0.8)]
    measured += [cold("fast", 2.5), cold("default", 5.0)]
    found = budget.fits(measured, 3.0)
    assert [f.recipe for f in found] == ["default", "fast", "best"]
    assert [f.fits for f in found] == ["yes, in a running process", "yes, also as a fresh command", "no"]
    assert "What fits 3 s" in budget.table(found, 3.0).title
    (answer,) = budget.answers(found, 3.0)
    assert answer.startswith("small: default fits 3 s (2.02 s, XSIM 0.700)")
    (answer,) = budget.answers(budget.fits(measured, 0.5), 0.5)
    assert answer.startswith("small: no recipe fits 0.5 s; the fastest needs 1.01 s: ")


def test_a_time_that_might_be_over_the_budget_does_not_fit():
    assert budget.fits([made(median=2.9, load=BUSY)], 3.0)[0].fits == "no"


def test_side_by_side_gives_ratios_to_the_first():
    table = compare.side_by_side({"a": [made()], "b": [made(median=4.0)], "c": [made("fast")]})
    assert table.columns[4:7] == ("a", "b", "c")
    assert table.rows[0][4:7] == ("2", "4 (×2.00)", "")


def test_side_by_side_tells_noise_from_difference():
    """≈ where what both say they may be off by explains the ratio, and never where a map differs unsaid."""
    table = compare.side_by_side({"a": [made()], "b": [made(median=2.01)], "c": [made(median=2.2, xsim=0.6)]})
    assert table.rows[0][4:7] == ("2", "2.01 (×1.00 ≈)", "2.2 (×1.10), XSIM 0.600")
    assert "1 of 2 ratios" in table.note
    failed = {**made(), "status": "over_budget", "error": "x"}
    assert compare.side_by_side({"a": [made()], "b": [failed]}).rows[0][5] == "over budget"


def test_runs_of_one_build_agree_within_the_noise_that_they_state():
    """Medians of the same distribution, with the luck of each process in it; and not those of a slower build."""
    rng = np.random.default_rng(5)

    def drawn(median: float) -> dict:
        record = made(median=median)
        runs = [[median * luck * (1 + 0.01 * rng.normal()) for _ in range(3)] for luck in 1 + 0.01 * rng.normal(size=2)]
        every = [t for one in runs for t in one]
        time = {**record["time"], **bench.summary(every), "uncertainty_s": noise.uncertainty_s(runs)}
        return {**record, "time": time}

    same = [compare.explained(drawn(2.0), drawn(2.0)) for _ in range(300)]
    slower = [compare.explained(drawn(2.0), drawn(2.4)) for _ in range(300)]
    assert np.mean(same) > 0.9
    assert np.mean(slower) < 0.02


def test_machines_of_unequal_cores_meet_at_all_of_theirs():
    big = {"environment": {**ENVIRONMENT, "cpu": "Big", "cores": 16}}
    few = [made(threads=4), made(threads=1, median=7.0)]
    many = [{**made(threads=16, median=0.5), **big}, {**made(threads=1, median=6.0), **big}]
    table = compare.side_by_side({"few": few, "many": many})
    assert [row[3] for row in table.rows] == ["all", "1"]
    assert [row[5] for row in table.rows] == ["0.5 (×0.25)", "6 (×0.86)"]


def rated(gb_per_s: float, threads: int = 4) -> dict:
    one = {"shape": [96, 112, 96], "fft_pair_s": [0.02], "convolution_s": [0.03], "fft_gflop_per_s": 9.0,
           "convolutions_per_s": 33.0}  # fmt: skip
    rates = {"threads": threads, "copy_gb_per_s": gb_per_s, "shapes": [one]}
    return {**made(), "kind": "machine", "case": {"threads": threads}, "rates": rates}


def test_what_bounds_machines_stands_side_by_side():
    table = compare.bounds_beside({"a": [rated(10.0, 1), rated(20.0)], "b": [rated(80.0)]})
    assert table.rows[0] == ("copy GB/s", "", "20.0", "80.0")
    assert ("FFT pair ms", "96×112×96", "20.0", "20.0") in table.rows


def test_the_report_says_which_providers_run_and_that_there_is_no_gpu():
    found = {"places": [("ort-cpu", "f32"), ("openvino", "f32"), ("openvino", "bf16")],
             "absent": {"cuda": "no NVIDIA driver; install the driver"}}  # fmt: skip
    record = {**made(), "environment": {**ENVIRONMENT, "providers": found}}
    (table,) = [t for t in tables.report([record]) if t.title == "Providers"]
    assert table.rows == [
        ("ort-cpu", "runs: f32"),
        ("openvino", "runs: f32, bf16"),
        ("cuda", "does not run: no NVIDIA driver; install the driver"),
    ]
    assert "no GPU (no NVIDIA driver)" in page([record])
    assert "no GPU (no NVIDIA driver)" in tables.markdown([record])


def test_later_records_replace_earlier_ones():
    assert [r["time"]["median_s"] for r in records.latest([made(), made(median=3.0)])] == [3.0]


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


HOSTILE = '<script>alert("x")</script>&</td>'


def test_page_escapes_hostile_names():
    """Recipes, sizes, errors and machines are other people's words."""
    environment = {**ENVIRONMENT, "cpu": HOSTILE, "gpu": {"absent": HOSTILE}}
    hostile = [
        {**made(HOSTILE, size=HOSTILE), "environment": environment},
        {**made("b"), "environment": environment},
        {**made("c"), "status": "crashed", "error": HOSTILE, "environment": environment},
        cold(HOSTILE, size=HOSTILE),
    ]
    text = page(hostile)
    assert "<script" not in text
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    ElementTree.fromstring(re.search(r"<body>.*</body>", text, re.S).group())  # and is well formed


def test_names_are_not_taken_for_mathematics():
    drawn = "".join(drawing for _, drawing in plots.figures([made("$x$"), made("b"), cold("$x$")]))
    assert ">$x$, small, 2 threads</text>" in drawn
    assert ">$x$</text>" in drawn


def test_names_of_points_do_not_cover_each_other():
    """Five recipes of one accuracy and time: each name is there, each at its own height."""
    figure = plots.against_accuracy([made(f"recipe{i}") for i in range(5)])
    texts, renderer = figure.axes[0].texts, figure.canvas.get_renderer()
    assert [text.get_text() for text in texts] == [f"recipe{i}" for i in range(5)]
    for text in texts:
        text.update_positions(renderer)
    boxes = [Text.get_window_extent(text, renderer) for text in texts]  # without their lines, which may cross
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_page_of_machines_shows_each_of_them():
    named = {"<a>": [made()], "b": [{**made(median=4.0), "environment": {**ENVIRONMENT, "cpu": "Other"}}]}
    text = beside(named, [compare.side_by_side(named)])
    assert "&lt;a&gt;: Test &lt;CPU&gt;" in text
    assert "b: Other" in text
    assert "×2.00" in text
    assert text.count("<svg") == 1


# Viénot 1999: linear RGB as protanopes and deuteranopes see it
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    xyz = rgb @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(np.clip(xyz / (0.9505, 1.0, 1.089), 0.008856, None))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("eyes", [None, *DICHROMATS])
def test_colours_are_told_apart_by_the_colour_blind(eyes):
    """Neighbours in a stacked bar are far apart in CIELAB, any two series beyond twice what can just be noticed."""
    srgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in plots.COLOURS]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = lab(linear if eyes is None else np.clip(linear @ np.array(DICHROMATS[eyes]).T, 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert np.diag(apart, 1).min() > 50
    assert apart[~np.eye(len(seen), dtype=bool)].min() > 5
    assert len(set(plots.MARKERS)) == len(set(plots.HATCHES)) == len(plots.COLOURS)  # and shape tells them too


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
    more = write(tmp_path / "more.jsonl", [made(), {**made("fast"), "environment": {**ENVIRONMENT, "cpu": "Other"}}])
    capsys.readouterr()
    assert main(["bench", "check", str(old), "--baseline", str(more)]) == 0
    said = capsys.readouterr().err
    assert "not measured again: fast (small, 2 threads)" in said
    assert "another machine" in said


def test_compare_and_report_commands(tmp_path, capsys):
    a, b = write(tmp_path / "a.jsonl", [made()]), write(tmp_path / "b.jsonl", [made(median=4.0)])
    html, markdown = tmp_path / "both.html", tmp_path / "both.md"
    assert main(["bench", "compare", str(a), str(b), "--html", str(html), "--markdown", str(markdown)]) == 0
    assert "×2.00" in capsys.readouterr().out
    assert "×2.00" in html.read_text()
    assert "×2.00" in markdown.read_text()
    assert main(["bench", "compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["b"] == "4 (×2.00)"
    assert main(["bench", "--from", str(a), "--budget-s", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fits"][0]["fits"] is True
    assert document["answers"][0].startswith("small: default fits 3 s")
    assert main(["bench", "compare", str(a)]) == 2
    assert main(["bench", "--from", str(tmp_path / "none.jsonl")]) == 3
    (tmp_path / "bad.jsonl").write_text("not json\n")
    assert main(["bench", "--from", str(tmp_path / "bad.jsonl")]) == 3
