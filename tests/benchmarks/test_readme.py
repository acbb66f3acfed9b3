"""README's figures are written from records, between its two comments and nowhere else."""

import json
from pathlib import Path

import pytest

from benchmarks import readme
from qsm_runtime import bench

ENVIRONMENT = {"cpu": "Test CPU", "cores": 2, "memory_mib": 8192, "system": "Test 1", "versions": {"python": "3.12"}}


def record(kind: str, name: str, median: float, **more) -> dict:
    case = {"recipe": name, "size": "clinical", "threads": 2, "device": "cpu", "precision": "f32"}
    if kind == "cold":
        case["caches"] = "filled"
    return {
        "schema": bench.SCHEMA, "kind": kind, "status": "ok", "case": case, "environment": ENVIRONMENT,
        "time": {"median_s": median, "uncertainty_s": 0.02 * median}, "memory": {"peak_mib": 1024.0},
        "load": {"noisy": False}, "grid": {"shape": [192, 224, 72]},
        "accuracy": {"xsim": 0.7, "xsim_full": 0.7, "correlation": 0.95, "slope": 1.0}, **more,
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    (tmp_path / "README.md").write_text(text)
    made = [record("recipe", "default", 4.26), record("cold", "default", 6.5), record("recipe", "fast", 3.0)]
    wrong = record("recipe", "wrong", 0.1, accuracy={"xsim": 0.1, "xsim_full": 0.1, "correlation": 0.1, "slope": 1.0})
    lines = tmp_path / "latency.jsonl"
    lines.write_text("".join(json.dumps(r) + "\n" for r in (*made, wrong)))
    return lines, tmp_path / "README.md"


def test_the_table_stands_between_the_comments(files):
    lines, page = files
    assert readme.main([str(lines), "--readme", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n| recipe |")
    assert text.endswith(f"{readme.END}\nafter\n")
    assert "old" not in text
    assert "| `default` | clinical, 192×224×72 | 4.26 ± 0.09 s | 6.5 s | 1.00 GiB | 0.700 | 0.950 |" in text
    assert "| `fast` |" in text
    assert "`wrong`" not in text  # a fast wrong answer is not listed
    assert "Test CPU" in text


def test_written_again_it_is_the_same(files):
    lines, page = files
    readme.main([str(lines), "--readme", str(page)])
    once = page.read_text()
    readme.main([str(lines), "--readme", str(page)])
    assert page.read_text() == once


def test_a_page_without_the_comments_is_left_alone(files, capsys):
    lines, page = files
    page.write_text("nothing\n")
    assert readme.main([str(lines), "--readme", str(page)]) == 1
    assert page.read_text() == "nothing\n"
    assert "<!-- latency -->" in capsys.readouterr().err
