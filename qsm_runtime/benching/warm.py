"""Warm times of recipes and methods, each with its accuracy; run by `child` in a process of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qsm_runtime import bench, stages
from qsm_runtime.benching import inputs, machine
from qsm_runtime.benching.inputs import Input
from qsm_runtime.errors import UsageError
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.threads import set_threads
from qsm_runtime.pipeline import Event, reconstruct
from qsm_runtime.recipe import load
from qsm_runtime.scan import Scan

TASKS = {  # a stage or a card's task: the stage, its input and its truth
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

    record, result = measured(call, padded_shape(scan.grid.shape), case)
    warm = stages_s[1:] or stages_s
    record["stages"] = {"first_s": stages_s[0], "warm_s": {s: [one[s] for one in warm] for s in warm[0]}}
    # every method works on the whole volume at once, so the first finished slice is out with the last
    record["time"]["first_slice_s"] = record["time"]["median_s"]
    record["accuracy"] = given.accuracy(result.chi_ppm, result.mask)
    record["grid"] = grid_said(scan, result.brain_mask)
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


def method(case: Case) -> dict[str, Any]:
    """Warm times of one classical method of a stage that gives a map, on its true input."""
    set_threads(case["threads"])
    given = inputs.load(case["input"])
    field, mask, accuracy = true_input(given, case["stage"])
    scan = given.scan
    function = stages.method(case["stage"], case["method"])
    supply = {"magnitude": scan.magnitude, "echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla}
    extra = {k: v for k, v in supply.items() if k in stages.supplied(function)}
    shape = padded_shape(scan.grid.shape)
    record, result = measured(lambda: function(field, mask, scan.grid, **extra), shape, case)
    return {**record, "accuracy": accuracy(result), "grid": grid_said(scan, mask)}


def true_input(given: Input, task: str) -> tuple[np.ndarray, np.ndarray, Callable[[Any], dict[str, float | None]]]:
    """What a task of TASKS is given: field and mask, and the scores of what it gives. Raises UsageError without."""
    _, given_name, truth_name = TASKS[task]
    field, truth = getattr(given, given_name), getattr(given, truth_name)
    if field is None or truth is None:
        raise UsageError(f"the input has no true {given_name}; measure this on a phantom")
    mask = given.truth_mask
    labels = given.labels if truth_name == "chi_ppm" else None

    def accuracy(result: Any) -> dict[str, float | None]:
        array, valid = result if isinstance(result, tuple) else (result, mask)
        return inputs.compared(array, truth, mask, valid, labels)

    return field, mask, accuracy


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


def measured(call: Callable[[], Any], shape: tuple[int, int, int], case: Case) -> tuple[dict[str, Any], Any]:
    """bench.measure as the case says, with what timing a call costs: the clocks, and a call of nothing."""
    record, result = bench.measure(call, shape, repeats=case["repeats"], budget_s=case["limit_s"])
    start = time.perf_counter()
    for _ in range(HARNESS_CALLS):
        time.perf_counter(), time.process_time()
        (lambda: None)()
        time.perf_counter(), time.process_time()
    record["time"]["harness_s"] = (time.perf_counter() - start) / HARNESS_CALLS
    return record, result


def grid_said(scan: Scan, mask: np.ndarray) -> dict[str, Any]:
    """The grid for a record."""
    return {"shape": scan.grid.shape, "voxel_mm": scan.grid.voxel_mm, "mask_voxels": int(mask.sum())}
