"""Local field by a network, from the total field: given directly, or as the background to take off.

SHARQnet (Bollmann 2019, 10.1016/j.zemedi.2019.01.001), BFRnet (Zhu 2023, 10.1016/j.zemedi.2022.08.001) and their kin.
"""

from collections.abc import Callable, Sequence

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.networks.runtime import Runtime


def network(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    model: str = "",
    reliability: np.ndarray | None = None,
    echo_times_s: Sequence[float] | None = None,
    b0_tesla: float | None = None,
    runtime: Runtime | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm, float32 (x, y, z), zero outside the mask that it holds in, and that mask (bool).

    total_ppm  float32 (x, y, z), total field in ppm
    mask       bool (x, y, z); eroded where the card says so
    model      name of a network on the search path, or the path of its card; must be given
    Raises UsageError, InputError, MetadataError, ModelError, DeviceError, ReconstructionError.
    """
    from qsm_runtime.networks import choice, run

    found, runtime = choice.choose("background", model, runtime)
    known = run.Known(b0_tesla, echo_times_s, None, reliability, None)

    def by_network(fallback: str) -> tuple[np.ndarray, np.ndarray]:
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
        local = made.values.get("local_field")
        if local is None:
            local = total_ppm - made.values["background_field"]
        return np.where(made.mask, local, np.float32(0)), made.mask

    supplied = {"reliability": reliability, "progress": progress, "record": record}
    return run.or_fallback("background", runtime, by_network, (total_ppm, mask, grid), supplied, record)
