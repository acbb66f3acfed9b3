"""How well a time is known, and what is said of a busy machine; on records made by hand."""

import numpy as np
import pytest
from handmade import BUSY, ENVIRONMENT, QUIET, made

from qsm_runtime import bench
from qsm_runtime.benching import compare, noise, sensors, suite


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


def test_a_machine_whose_pace_moved_is_doubted_and_said_so():
    steady = {"yardstick": {"fft_pair_s": [0.010, 0.0101, 0.0099] * 4}}
    moved = {"yardstick": {"fft_pair_s": [0.010, 0.0101, 0.0099] * 2 + [0.014, 0.0139, 0.0141] * 2}}
    time = {"time": {"median_s": 2.0, "uncertainty_s": 0.04, "p25_s": 1.98, "p75_s": 2.02}}
    assert noise.doubt(steady | time) == pytest.approx(0.02)
    assert noise.doubt(moved | time) == pytest.approx(0.4, abs=0.01)
    assert "pace moved by 40 %" in noise.quality(moved | time)
    assert noise.quality(steady | time) == ""
