"""Tables, pages and figures of records made by hand."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from handmade import BUSY, ENVIRONMENT, cold, made
from matplotlib.text import Text

from qsm_runtime.benching import compare, plots, records, tables
from qsm_runtime.benching.page import beside, page


def test_check_names_the_stage_that_took_the_time():
    new = made(median=2.0)
    slower = {"mask": [0.5] * 5, "single_step": [2.5] * 5}
    new = {**new, "time": made(median=3.0)["time"], "stages": {"first_s": {}, "warm_s": slower}}
    said = compare.check([new], [made()])[0].said
    assert "single_step +1 s" in said
    assert "mask" not in said


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


def test_hatches_take_little_room():
    """Eight parts of a bar, each with a hatch of its own: dots and circles would be hundreds of kilobytes."""
    stages = {f"part{i}": 1.0 for i in range(len(plots.HATCHES))}
    with plots.mpl.rc_context(plots.STYLE):
        drawn = plots.svg(plots._stacked({"row": stages}, "seconds"))
    assert drawn.count("<pattern") == len(plots.HATCHES) - 1
    assert len(drawn) < 40_000
