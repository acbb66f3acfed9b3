"""Unwrapping by a network that gives wrap counts or unwrapped phase, echo by echo.

Whatever it gives, the result is the measured phase plus whole turns: PHU-Net and its kin (Zhou 2021,
10.1002/mrm.28927), recurrent networks (Ryu 2019).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.units import TWO_PI


def network(
    phase_rad: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    model: str = "",
    magnitude: np.ndarray | None = None,
    echo_times_s: Sequence[float] | None = None,
    b0_tesla: float | None = None,
    runtime: Runtime | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Unwrapped phase in rad, float32 (echo, x, y, z), zero outside the mask; congruent with the input.

    phase_rad  float32 (echo, x, y, z) or (x, y, z), wrapped
    mask       bool (x, y, z)
    model      name of a network on the search path, or the path of its card; must be given. Classes stand for counts
               around their middle
    Raises UsageError, InputError, MetadataError, ModelError, DeviceError, ReconstructionError.
    """
    from qsm_runtime.networks import choice, run

    found, runtime = choice.choose("unwrap", model, runtime)

    def by_network(fallback: str) -> np.ndarray:
        echoes = phase_rad.reshape(-1, *grid.shape)
        out = np.zeros(echoes.shape, np.float32)
        for n, phase in enumerate(echoes):
            known = run.Known(
                b0_tesla,
                echo_times_s,
                echo_times_s[n] if echo_times_s else None,
                None,
                None if magnitude is None else magnitude[n],
            )
            arrays = {"wrapped_phase": np.ascontiguousarray(phase, np.float32)}
            made = run.run(found, arrays, mask, grid, runtime=runtime, known=known, fallback=fallback, record=record)
            out[n] = np.where(mask, phase + np.float32(TWO_PI) * _turns(made.values, phase), 0)
            if progress is not None:
                progress((n + 1) / len(echoes))
        return out.reshape(phase_rad.shape)

    supplied = {"magnitude": magnitude, "echo_times_s": echo_times_s, "b0_tesla": b0_tesla, "progress": progress}
    return run.or_fallback("unwrap", runtime, by_network, (phase_rad, mask, grid), supplied, record)


def _turns(values: Mapping[str, np.ndarray], phase: np.ndarray) -> np.ndarray:
    """Whole turns to add, float32."""
    if "unwrapped_phase" in values:
        return np.rint((values["unwrapped_phase"] - phase) / np.float32(TWO_PI))
    counts = values["wrap_count"]
    if len(counts) > 1:
        return (counts.argmax(0) - len(counts) // 2).astype(np.float32)
    return np.rint(counts[0])
