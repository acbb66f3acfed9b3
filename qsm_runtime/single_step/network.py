"""From the total field, or from the wrapped phase itself, to susceptibility by one network.

A network of task single_step takes the total field; one of task phase_to_chi takes the wrapped phase of each echo, and
its maps are joined as the card says, by magnitude^2 TE^2 as in iQSM (Gao 2022, 10.1016/j.neuroimage.2022.119410), by
TE^2 alone where no magnitude is given.
"""

from collections.abc import Callable, Sequence

import numpy as np

from qsm_runtime.errors import MetadataError
from qsm_runtime.grid import Grid
from qsm_runtime.networks.runtime import Runtime


def network(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    model: str = "",
    phase_rad: np.ndarray | None = None,
    magnitude: np.ndarray | None = None,
    echo_times_s: Sequence[float] | None = None,
    b0_tesla: float | None = None,
    reliability: np.ndarray | None = None,
    runtime: Runtime | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm: float32 (x, y, z), zero outside the mask (eroded where the card says so).

    total_ppm  float32 (x, y, z), total field in ppm
    mask       bool (x, y, z)
    model      name of a network on the search path, or the path of its card; must be given
    phase_rad  float32 (echo, x, y, z), wrapped phase, for networks that start from it
    Raises UsageError, InputError, MetadataError, ModelError, DeviceError, ReconstructionError.
    """
    from qsm_runtime.networks import choice, run

    found, runtime = choice.choose("single_step", model, runtime)

    def of_field(fallback: str) -> np.ndarray:
        known = run.Known(b0_tesla, echo_times_s, None, reliability, magnitude)
        arrays = {"total_field": total_ppm}
        made = run.run(
            found,
            arrays,
            mask,
            grid,
            runtime=runtime,
            known=known,
            fallback=fallback,
            progress=progress,
            record=record,
        )
        return made.values["chi"]

    def of_phase(fallback: str) -> np.ndarray:
        if phase_rad is None or not echo_times_s:
            raise MetadataError(
                f"network {model} starts from the wrapped phase, which is not given here: run it on a whole scan "
                "(`qsm run`), or take a network of task single_step"
            )
        echoes = list(zip(phase_rad, echo_times_s, strict=True))
        if found.card.echoes.combine == "single":
            echoes = echoes[:1]
        total, weight = np.zeros(grid.shape, np.float64), np.zeros(grid.shape, np.float64)
        for n, (phase, time_s) in enumerate(echoes):
            signal = None if magnitude is None else magnitude[n]
            known = run.Known(b0_tesla, echo_times_s, time_s, reliability, signal)
            arrays = {"wrapped_phase": phase}
            made = run.run(found, arrays, mask, grid, runtime=runtime, known=known, fallback=fallback, record=record)
            share = np.float64(1)
            if found.card.echoes.combine == "magnitude_te2":
                share = np.square(time_s * (1.0 if signal is None else signal.astype(np.float64)))
            total += share * made.values["chi"]
            weight += share
            if progress is not None:
                progress((n + 1) / len(echoes))
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0).astype(np.float32)

    supplied = {"reliability": reliability, "magnitude": magnitude, "echo_times_s": echo_times_s, "b0_tesla": b0_tesla}
    by_network = of_phase if found.card.task == "phase_to_chi" else of_field
    extra = {**supplied, "progress": progress, "record": record}
    return run.or_fallback("single_step", runtime, by_network, (total_ppm, mask, grid), extra, record)
