"""The pathology benchmark runs on a tiny head, with the reweighting and without, and its table says so."""

# ruff: noqa: E402  (benchmarks are no part of the package: they are found from the checkout's root)

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import pathology
from qsm_runtime import bench


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pathology")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSM_BENCH_CACHE", str(folder / "cache"))
        path, picture = folder / "pathology.jsonl", folder / "pathology.png"
        words = ["--scenario", "tiny", "--stage", "inversion", "--method", "tkd,tv", "-q", "-o", str(path)]
        assert pathology.main([*words, "--picture", str(picture)]) == 0
        assert picture.stat().st_size > 0
    return bench.read(path)


def test_every_method_runs_with_its_reweighting_and_without(records):
    assert [(r["case"]["method"], r["case"]["switched_off"]) for r in records] == [
        ("tkd", ""),
        ("tv", ""),
        ("tv", "outlier_rounds=0"),
    ]
    for r in records:
        assert r["status"] == "ok"
        assert set(r["accuracy"]) <= {*pathology.LESIONS, pathology.NEAR_AIR}
        assert {"haemorrhage", pathology.NEAR_AIR} <= set(r["accuracy"])
        assert all(np.isfinite(v) for a in r["accuracy"].values() for v in a.values())
        assert r["accuracy"]["haemorrhage"]["voxels"] > 0


def test_a_lesion_adds_to_the_error_around_it(records):
    lesion = records[0]["accuracy"]["haemorrhage"]
    assert lesion["streak_ppm"] > lesion["floor_ppm"]


def test_the_table_has_a_row_for_each(records):
    text = pathology.tables(records)
    assert sum(line.startswith("| inversion | tv |") for line in text) == 2
    assert any("outlier_rounds=0" in line for line in text)
    assert pathology.tables([]) == []
