"""Warm times of a network at its task, loading apart, with the accuracy of what it gave and its card's self-test."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qsm_runtime import stages
from qsm_runtime.benching import inputs, warm
from qsm_runtime.benching.inputs import Input
from qsm_runtime.errors import UsageError
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.threads import set_threads

if TYPE_CHECKING:
    from qsm_runtime.networks.registry import Model
    from qsm_runtime.networks.session import NetSession

Accuracy = Callable[[Any], dict[str, float | None]]


def model(case: warm.Case) -> dict[str, Any]:
    """Loading and warm times of a network on one provider, on its task's true input; else of its larger self-test."""
    from qsm_runtime.networks import registry, verify
    from qsm_runtime.networks.session import open_session

    set_threads(case["threads"])
    runtime = inputs.runtime_of(case)
    found = registry.find(case["model"], runtime.models)
    start = time.perf_counter()
    session = open_session(found, runtime)
    load_s = time.perf_counter() - start
    tests = verify.measure(found, session.run)
    if found.card.task in (*warm.TASKS, "mask"):
        record = _at_its_task(case, found.card.task, runtime)
    else:
        record = _self_test(case, found, session)
    record["time"]["load_s"] = load_s
    record["session"] = session.record()
    record["self_test"] = (
        {"error": max(t.error for t in tests), "holds": all(t.holds for t in tests)} if tests else None
    )
    return record


def _at_its_task(case: warm.Case, task: str, runtime: Any) -> dict[str, Any]:
    given = inputs.load(case["input"])
    stage = "mask" if task == "mask" else warm.TASKS[task][0]
    function = stages.method(stage, "network")
    scan = given.scan
    supply = {"magnitude": scan.magnitude, "echo_times_s": scan.echo_times_s, "b0_tesla": scan.b0_tesla}
    extra = {k: v for k, v in {**supply, "runtime": runtime}.items() if k in stages.supplied(function)}
    if task == "mask":
        arguments: tuple[Any, ...] = (scan.magnitude, scan.phase_rad, scan.grid)
        accuracy: Accuracy = lambda mask: _overlap(mask, given)  # noqa: E731
        mask = np.ones(scan.grid.shape, bool)
    else:
        field, mask, accuracy = warm.true_input(given, task)
        arguments = (field, mask, scan.grid)

    def call() -> Any:
        return function(*arguments, model=case["model"], **extra)

    record, result = warm.measured(call, padded_shape(scan.grid.shape), case)
    record |= {"accuracy": accuracy(result), "grid": warm.grid_said(scan, mask)}
    warm.keep(case, result[0] if isinstance(result, tuple) else result)
    return record


def _overlap(mask: np.ndarray, given: Input) -> dict[str, float | None]:
    """Dice overlap with the true mask; empty where none is known."""
    if given.mask is None:
        return {}
    return {"dice": 2 * float((mask & given.mask).sum()) / max(float(mask.sum() + given.mask.sum()), 1.0)}


def _self_test(case: warm.Case, found: "Model", session: "NetSession") -> dict[str, Any]:
    from qsm_runtime.networks import verify

    if not found.card.self_test:
        raise UsageError(f"no benchmark of task {found.card.task}, and no self-test: give its card one")
    largest = max(found.card.self_test, key=lambda test: int(np.prod(test.shape)))
    arrays, _ = verify.stored(found, largest)
    record, _ = warm.measured(lambda: session.run(arrays), padded_shape(largest.shape), case)
    shape = "×".join(map(str, largest.shape))
    return {**record, "accuracy": {}, "note": f"task {found.card.task}: its self-test of {shape}, not the size"}
