"""The overhead benchmark: it finds an overhead that is there, and none where there is none."""

import time

from benchmarks import harness
from qsm_runtime import bench


def spin(cpu_s: float) -> None:
    start = time.process_time()
    while time.process_time() - start < cpu_s:
        pass


def test_a_call_costs_the_same_by_the_harness():
    found = harness.overhead(lambda: spin(0.01), (8, 8, 8), rounds=6, calls=3)
    assert abs(found["cpu_overhead"]) < harness.LIMIT
    assert len(found["raw"]["bare_s"]) == len(found["raw"]["measured_s"]) == 6


def test_an_overhead_that_is_there_is_found(monkeypatch):
    plain = bench.measure

    def heavy(call, shape, *, repeats, budget_s):
        def slowed():
            spin(0.002)
            return call()

        return plain(slowed, shape, repeats=repeats, budget_s=budget_s)

    monkeypatch.setattr(bench, "measure", heavy)
    found = harness.overhead(lambda: spin(0.01), (8, 8, 8), rounds=6, calls=3)
    assert found["cpu_overhead"] > 0.05
