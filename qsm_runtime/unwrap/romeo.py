"""ROMEO: region growing over quality-ranked edges, and the other echoes from the first.

Source: Dymerska et al. 2021, 10.1002/mrm.28563. Edge weights stand in `edges`, the growing in `region_growing`,
unwrapping in time in `temporal`.
"""

from typing import Literal, get_args

import numpy as np

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.unwrap.edges import phase_edges, voxel_quality, wrapped
from qsm_runtime.unwrap.region_growing import apply_turns, grow, grow_each
from qsm_runtime.unwrap.temporal import Echoes, connected_parts, template_turns

Mode = Literal["template", "individual"]

MAX_UNPREDICTED = 0.01  # share of an echo's signal far from its prediction, above which it is unwrapped in space


def romeo(
    phase_rad: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    magnitude: np.ndarray | None = None,
    echo_times_s: tuple[float, ...] = (),
    mode: Mode = "template",
    template_echo: int = 0,
) -> np.ndarray:
    """Unwrapped phase in rad, float32 (echo, x, y, z): equal to the input but for whole turns, zero outside the mask.

    phase_rad      float32 (echo, x, y, z), wrapped; a voxel that is not finite in one echo is NaN in all of the result
    mask           bool (x, y, z); its parts are unwrapped each for itself
    magnitude      float32 (echo, x, y, z), any unit; None leaves the magnitude coherence out
    echo_times_s   seconds, one for each echo; needed for more than one echo, any spacing
    mode           "template": one echo in space and the others in time, which wants the phase offset removed first;
                   an echo that the others do not predict is unwrapped in space instead.
                   "individual": each echo in space, then shifted by whole turns to agree with the first
    template_echo  index of the echo unwrapped in space, from 0

    Raises UsageError, ShapeError, or ReconstructionError for an empty mask. Source: 10.1002/mrm.28563.
    """
    grid.check(mask, "mask")
    echoes = phase_rad.reshape(-1, *grid.shape) if phase_rad.ndim == 3 else phase_rad
    if echoes.ndim != 4 or echoes.shape[1:] != grid.shape:
        raise ShapeError(f"phase_rad has shape {phase_rad.shape}, expected (echo, *{grid.shape})")
    if magnitude is not None and magnitude.shape != phase_rad.shape:
        raise ShapeError(f"magnitude has shape {magnitude.shape}, expected that of phase_rad, {phase_rad.shape}")
    n = len(echoes)
    if mode not in get_args(Mode):
        raise UsageError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if not 0 <= template_echo < n:
        raise UsageError(f"template_echo must lie between 0 and {n - 1}, got {template_echo}")
    if n > 1 and (len(echo_times_s) != n or min(echo_times_s) <= 0):
        raise UsageError(f"echo_times_s must be {n} positive times, one for each echo, got {tuple(echo_times_s)}")
    if not mask.any():
        raise ReconstructionError("the mask is empty; nothing to unwrap")

    echo_times = tuple(echo_times_s) if n > 1 else (1.0,)
    wrapped_echoes = [wrapped(p) for p in echoes]
    weigh = None if magnitude is None else magnitude.reshape(echoes.shape)

    def in_space(indices: list[int]) -> None:
        """Fill these echoes of `out`, each unwrapped in space."""
        edges = []
        for e in indices:
            other = max(e - 1, 0) if e or n == 1 else 1
            second, ratio = (wrapped_echoes[other], echo_times[e] / echo_times[other]) if n > 1 else (None, 1.0)
            edges.append(phase_edges(wrapped_echoes[e], mask, None if weigh is None else weigh[e], second, ratio))
        for e, of_echo, turns in zip(indices, edges, grow_each(edges), strict=True):
            apply_turns(out[e], wrapped_echoes[e], mask, of_echo, turns)

    out = np.zeros(echoes.shape, np.float32)
    in_space([template_echo] if mode == "template" else list(range(n)))
    if n == 1:
        return out.reshape(phase_rad.shape)

    finite = np.isfinite(echoes).all(0)
    others = sorted((e for e in range(n) if e != template_echo), key=lambda e: abs(e - template_echo))
    series = Echoes(out, weigh, echo_times, connected_parts(mask & finite), template_echo)
    angles = np.stack([series.deviation(e, wrapped_echoes[e]) for e in others])
    turns = template_turns(angles, np.array(echo_times)[others] / echo_times[template_echo])
    series.add_turns(template_echo, turns)
    for e in others:
        angle = series.deviation(e, wrapped_echoes[e])
        if mode == "template" and series.follow(e, wrapped_echoes[e], angle) > MAX_UNPREDICTED:
            in_space([e])
            series.align(e, angle)
        elif mode == "individual":
            series.align(e, angle)
        series.known.append(e)
    out[:, mask & ~finite] = np.nan
    return out


def unwrap_volume(
    phase_rad: np.ndarray,
    mask: np.ndarray,
    *,
    magnitude: np.ndarray | None = None,
    second_phase_rad: np.ndarray | None = None,
    te_ratio: float = 1.0,
) -> np.ndarray:
    """One volume unwrapped in space: float32 (x, y, z), zero outside the mask.

    phase_rad         float32 (x, y, z) in rad; anything periodic in 2 pi, such as the angle of a Hermitian product
    mask              bool (x, y, z), not empty
    magnitude         float32 (x, y, z), any unit
    second_phase_rad  float32 (x, y, z), phase of another echo
    te_ratio          echo time of `phase_rad` over that of `second_phase_rad`
    In each connected part of the mask the median of the added turns is zero.
    """
    phase_rad = wrapped(phase_rad)
    edges = phase_edges(phase_rad, mask, magnitude, second_phase_rad, te_ratio)
    out = np.zeros(mask.shape, np.float32)
    apply_turns(out, phase_rad, mask, edges, grow(edges))
    return out


def quality_map(
    phase_rad: np.ndarray,
    *,
    magnitude: np.ndarray | None = None,
    second_phase_rad: np.ndarray | None = None,
    te_ratio: float = 1.0,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """How far each voxel's phase agrees with its six neighbours: float32 (x, y, z), 0 (noise) to 1.

    The mean weight of the voxel's six edges, arguments as for `unwrap_volume`; an edge that leaves the array or
    the mask (default: everything finite) counts as 0.
    """
    phase_rad = wrapped(phase_rad)
    mask = np.ones(phase_rad.shape, bool) if mask is None else mask
    return voxel_quality(phase_edges(phase_rad, mask, magnitude, second_phase_rad, te_ratio), mask.shape)
