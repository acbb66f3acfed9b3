"""Checks, budgets, machines side by side, and wrong answers; on records made by hand."""

import json

import pytest
from handmade import BUSY, ENVIRONMENT, cold, made, rated, write

from qsm_runtime.benching import budget, compare, plots, records, tables
from qsm_runtime.cli import main


def test_check_holds_on_the_same_and_fails_on_a_regression():
    old = [made(), made("fast", 1.0)]
    assert not any(v.failed for v in compare.check([made(median=2.05), made("fast", 1.0)], old))
    verdicts = compare.check([made(median=2.6), made("fast", 1.0)], old)
    assert [v.failed for v in verdicts] == [True, False]
    assert "slower" in verdicts[0].said


def test_check_allows_what_noise_explains_and_no_more():
    old = [made()]
    assert not compare.check([made(median=2.6, load=BUSY)], old)[0].failed
    (verdict,) = compare.check([made(median=2.6, load=BUSY)], old)
    assert verdict.undecided
    assert "undecided" in verdict.said
    assert compare.check([made(median=9.0, load=BUSY)], old)[0].failed


def test_check_knows_a_slow_hour_of_the_machine():
    """The FFT pair slowed down as much as the recipe: nothing is shown. What slowed down more is named."""
    hour = [{"yardstick": {"fft_pair_s": [pair, 1.01 * pair, 0.99 * pair], "copy_s": []}} for pair in (0.010, 0.014)]
    old = [{**made(), **hour[0]}]
    (verdict,) = compare.check([{**made(median=2.7), **hour[1]}], old)
    assert verdict.undecided
    assert not verdict.failed
    assert "×1.40" in verdict.said
    assert compare.check([{**made(median=2.7), **hour[0]}], old)[0].failed
    assert compare.check([{**made(median=3.6), **hour[1]}], old)[0].failed


def test_check_fails_where_accuracy_or_memory_is_lost():
    assert "less accurate" in compare.check([made(xsim=0.65)], [made()])[0].said
    assert "more memory" in compare.check([made(peak=700.0)], [made()])[0].said
    assert compare.check([{**made(), "status": "crashed", "error": "x"}], [made()])[0].failed


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


def test_machines_of_unequal_cores_meet_at_all_of_theirs():
    big = {"environment": {**ENVIRONMENT, "cpu": "Big", "cores": 16}}
    few = [made(threads=4), made(threads=1, median=7.0)]
    many = [{**made(threads=16, median=0.5), **big}, {**made(threads=1, median=6.0), **big}]
    table = compare.side_by_side({"few": few, "many": many})
    assert [row[3] for row in table.rows] == ["all", "1"]
    assert [row[5] for row in table.rows] == ["0.5 (×0.25)", "6 (×0.86)"]


def test_what_bounds_machines_stands_side_by_side():
    table = compare.bounds_beside({"a": [rated(10.0, 1), rated(20.0)], "b": [rated(80.0)]})
    assert table.rows[0] == ("copy GB/s", "", "20.0", "80.0")
    assert ("FFT pair ms", "96×112×96", "20.0", "20.0") in table.rows


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
