"""Susceptibility by a network, alone or with the dipole model beside it.

Which network is a name: its card says what it takes, what it was trained for and, for unrolled ones, the steps between
its passes (networks/unrolled.py). Afterwards the map may be brought to the field: `refine` (networks/refine.py), or by
total variation started from it (inversion/tv.py; ADMM, Boyd 2011, 10.1561/2200000016).
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check, part
from qsm_runtime.inversion._noise import EARLY_STOP_SATURATION, Record, explained_ppm, noise_ppm, weights
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.splitting import squares_step
from qsm_runtime.networks import refine as refining
from qsm_runtime.networks.runtime import Implausible, Runtime

Refinement = Literal["none", "substitute", "gradient", "tv"]
TV_ITERATIONS = 20  # tv itself takes 36: the start is near already


def network(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    model: str = "",
    refine: Refinement = "none",
    implausible: Implausible = "refuse",
    reliability: np.ndarray | None = None,
    magnitude: np.ndarray | None = None,
    echo_times_s: Sequence[float] | None = None,
    b0_tesla: float | None = None,
    runtime: Runtime | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility in ppm: float32 (x, y, z), zero outside the mask (eroded where the card says so).

    local_ppm    float32 (x, y, z), local field in ppm
    mask         bool (x, y, z)
    model        name of a network on the search path, or the path of its card; must be given
    refine       substitute: k-space where the dipole is well-conditioned comes from the field; gradient: a few weighted
                 steps towards it; tv: total variation (with its defaults) that starts from there
    implausible  what becomes of a field that speaks against its own B0, voxels or sign: an error, or a warning
    reliability  inverse standard deviation of the field in 1/ppm; field strength and echo times are checked against
                 what the network was trained on
    Raises UsageError, InputError, MetadataError, ModelError, DeviceError, ReconstructionError.
    """
    from qsm_runtime.networks import choice, run

    check(local_ppm, mask, grid)
    if refine not in get_args(Refinement):
        raise UsageError(f"network: refine must be one of {', '.join(get_args(Refinement))}, got {refine!r}")
    if implausible not in get_args(Implausible):
        raise UsageError(f"network: implausible must be refuse or warn, got {implausible!r}")
    found, runtime = choice.choose("inversion", model, runtime)
    known = run.Known(b0_tesla, echo_times_s, None, reliability, magnitude)

    def by_network(fallback: str) -> np.ndarray:
        made = run.run(
            found,
            {"local_field": local_ppm},
            mask,
            grid,
            runtime=runtime,
            known=known,
            implausible=implausible,
            fallback=fallback,
            progress=part(progress, 0.0, 0.9),
            record=record,
        )
        return refined(made.values["chi"], local_ppm, made.mask, grid, refine=refine, reliability=reliability)

    supplied = {
        "reliability": reliability,
        "magnitude": magnitude,
        "echo_times_s": echo_times_s,
        "b0_tesla": b0_tesla,
        "progress": progress,
        "record": record,
    }
    return run.or_fallback("inversion", runtime, by_network, (local_ppm, mask, grid), supplied, record)


def refined(
    chi_ppm: np.ndarray,
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    refine: Refinement,
    reliability: np.ndarray | None = None,
) -> np.ndarray:
    """A network's map brought to the field, as `network` does it. float32 (x, y, z), zero outside the mask."""
    if refine == "none":
        return chi_ppm
    noise = noise_ppm(local_ppm, mask, reliability)
    even = weights(mask, grid, reliability, EARLY_STOP_SATURATION)
    limit = explained_ppm(even, noise, reliability)
    if refine == "substitute":
        return refining.substitute(chi_ppm, local_ppm, even, mask, grid, explained_ppm=limit)
    nearer = refining.gradient(chi_ppm, local_ppm, even, mask, grid, explained_ppm=limit)
    if refine == "gradient":
        return nearer
    w = weights(mask, grid, reliability)
    state = Splitting(local_ppm, w * w, mask, grid)
    state.start_from(nearer)
    state.run_rounds(
        squares_step,
        rounds=2,
        noise_ppm=noise,
        first=absolute_data(noise),
        regularisation=regularisation_from_noise(noise),
        tolerance=0.005,
        max_iterations=TV_ITERATIONS,
    )
    return state.result()
