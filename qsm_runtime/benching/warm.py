"""Warm times of recipes, networks and methods, each with its accuracy; run by `child` in a process of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import bench, stages
from qsm_runtime.benching import inputs, machine
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.pipeline import Event, reconstruct
from qsm_runtime.recipe import load
from qsm_runtime.scan import Scan

TASKS = {  # a card's task: the stage whose method `network` runs it, its input and its truth
    "inversion": ("inversion", "local_ppm", "chi_ppm"),
    "single_step": ("single_step", "total_ppm", "chi_ppm"),
    "background": ("background", "total_ppm", "local_ppm"),
}
HARNESS_CALLS = 200
Case = dict[str, Any]


def recipe(case: Case) -> dict[str, Any]:
    """Warm times of a recipe, whole and by stage, with its accuracy; where asked, each stage's share of its bound."""
    set_threads(case["threads"])
    given, chosen, runtime = inputs.load(case["input"]), load(case["recipe"]), inputs.runtime_of(case)
    scan, stages_s = given.scan, []

    def call() -> Any:
        result = reconstruct(scan, chosen, runtime=runtime)
        stages_s.append(result.record["seconds"])
        return result

    record, result = _measured(call, padded_shape(scan.grid.shape), case)
    warm = stages_s[1:] or stages_s
    record["stages"] = {"first_s": stages_s[0], "warm_s": {s: [one[s] for one in warm] for s in warm[0]}}
    # every method works on the whole volume at once, so the first finished slice is out with the last
    record["time"]["first_slice_s"] = record["time"]["median_s"]
    record["accuracy"] = given.accuracy(result.chi_ppm, result.mask)
    record["grid"] = _grid(scan, result.brain_mask)
    record["chosen"], record["warnings"] = result.record["chosen"], result.warnings
    keep(case, result.chi_ppm)
    if case.get("bound"):
        transforms = machine.Transforms()

        def seen(event: Event) -> None:
            transforms.stage = event.stage

        with transforms.counted():
            reconstruct(scan, chosen, runtime=runtime, progress=seen)
        medians = {stage: bench.summary(times)["median_s"] for stage, times in record["stages"]["warm_s"].items()}
        crop = result.brain_mask.any(axis=(1, 2)).sum(), result.brain_mask.any(axis=(0, 2)).sum()
        voxels = int(crop[0] * crop[1] * result.brain_mask.any(axis=(0, 1)).sum())
        record["bound"] = machine.bounds(transforms, medians, echoes=scan.n_echoes, voxels=voxels)
    return record


def model(case: Case) -> dict[str, Any]:
    """Loading and warm times of a network on one provider, on its task's true input."""
    from qsm_runtime.networks import registry, verify
    from qsm_runtime.networks.session import open_session

    set_threads(case["threads"])
    runtime = inputs.runtime_of(case)
    found = registry.find(case["model"], runtime.models)
    start = time.perf_counter()
    session = open_session(found, runtime)
    load_s = time.perf_counter() - start
    place = session.record()
    tests = verify.measure(found, session.run)
    self_test = {"error": max(t.error for t in tests), "holds": all(t.holds for t in tests)} if tests else None
    if found.card.task not in TASKS:
        start_ticks = bench.Ticks.now()
        largest = max(tests, key=lambda t: t.seconds) if tests else None
        if largest is None:
            return {"status": "refused", "error": f"no benchmark of task {found.card.task}, and no self-test"}
        return {
            "time": {"first_s": largest.seconds, "warm_s": [largest.seconds], "load_s": load_s,
                     **bench.summary([largest.seconds])},
            "memory": {"peak_mib": bench.memory_mib()[1]},
            "load": bench.load_between(start_ticks, bench.Ticks.now()),
            "session": place, "self_test": self_test, "accuracy": {},
            "note": f"task {found.card.task}: the larger self-test, once",
        }  # fmt: skip
    stage, given_name, truth_name = TASKS[found.card.task]
    given = inputs.load(case["input"])
    field, truth = getattr(given, given_name), getattr(given, truth_name)
    if field is None or truth is None:
        return {"status": "refused", "error": f"the input has no true {given_name}; measure models on a phantom"}
    scan, mask = given.scan, given.truth_mask
    function = stages.method(stage, "network")
    supply = {"magnitude": scan.magnitude, "echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla}
    extra = {k: v for k, v in {**supply, "runtime": runtime}.items() if k in stages.supplied(function)}

    def call() -> Any:
        return function(field, mask, scan.grid, model=case["model"], **extra)

    record, result = _measured(call, padded_shape(scan.grid.shape), case)
    array, valid = result if isinstance(result, tuple) else (result, mask)
    record["time"]["load_s"] = load_s
    record["accuracy"] = inputs.compared(array, truth, mask, valid, given.labels if truth_name == "chi_ppm" else None)
    record |= {"grid": _grid(scan, mask), "session": place, "self_test": self_test}
    keep(case, array)
    return record


def method(case: Case) -> dict[str, Any]:
    """Warm times of one classical method of a stage that gives a map, on its true input."""
    set_threads(case["threads"])
    given = inputs.load(case["input"])
    stage, given_name, truth_name = TASKS[case["stage"]]
    field, truth = getattr(given, given_name), getattr(given, truth_name)
    if field is None or truth is None:
        return {"status": "refused", "error": f"the input has no true {given_name}; measure methods on a phantom"}
    scan, mask = given.scan, given.truth_mask
    function = stages.method(stage, case["method"])
    supply = {"magnitude": scan.magnitude, "echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla}
    extra = {k: v for k, v in supply.items() if k in stages.supplied(function)}
    record, result = _measured(
        lambda: function(field, mask, scan.grid, **extra), padded_shape(scan.grid.shape), case
    )  # fmt: skip
    array, valid = result if isinstance(result, tuple) else (result, mask)
    record["accuracy"] = inputs.compared(array, truth, mask, valid, given.labels if truth_name == "chi_ppm" else None)
    return {**record, "grid": _grid(scan, mask)}


def machine_rates(case: Case) -> dict[str, Any]:
    """What bounds the machine at a thread count."""
    set_threads(case["threads"])
    start = bench.Ticks.now()
    found = machine.rates([(s[0], s[1], s[2]) for s in case["shapes"]])
    return {"rates": found, "load": bench.load_between(start, bench.Ticks.now())}


def keep(case: Case, array: np.ndarray) -> None:
    """Leave the map where the parent compares it with other providers' maps, if it asked."""
    if case.get("keep"):
        np.save(Path(case["keep"]), array)


def _measured(call: Callable[[], Any], shape: tuple[int, int, int], case: Case) -> tuple[dict[str, Any], Any]:
    record, result = bench.measure(call, shape, repeats=case["repeats"], budget_s=case["limit_s"])
    start = time.perf_counter()
    for _ in range(HARNESS_CALLS):  # what timing a call costs: the clocks, and a call of nothing
        time.perf_counter(), time.process_time()
        (lambda: None)()
        time.perf_counter(), time.process_time()
    record["time"]["harness_s"] = (time.perf_counter() - start) / HARNESS_CALLS
    return record, result


def _grid(scan: Scan, mask: np.ndarray) -> dict[str, Any]:
    return {"shape": scan.grid.shape, "voxel_mm": scan.grid.voxel_mm, "mask_voxels": int(mask.sum())}


KINDS = {"recipe": recipe, "model": model, "method": method, "machine": machine_rates}
