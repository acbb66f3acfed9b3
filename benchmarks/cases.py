"""Each stage's call on its true input, with the score of what it gives.

Input of each stage, so that no stage pays for the one before:
    mask, offset  the scan            field       the scan's phase less its offset, on the turn nearest the truth
    unwrap        the scan's phase less its offset (wrapped)           background, single_step  the true total field
    inversion     the true local field                                 reference                the true susceptibility
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.inputs import Inputs
from qsm_runtime import stages
from qsm_runtime.metrics import score, score_field
from qsm_runtime.phantom import LABELS
from qsm_runtime.units import TWO_PI

KEPT = ("xsim", "correlation", "slope", "nrmse_pct", "hfen_pct", "coverage", "deep_grey_slope")
NETWORK = "network"  # the method that must be told which: benchmarks/networks.py runs networks by name
Scorer = Callable[[Any], dict[str, float | None]]


def variants(stage: str, inputs_echoes: int) -> list[str]:
    """Ways a stage is fed: unwrapping one echo, and all of them together."""
    return ["one_echo", "all_echoes"] if stage == "unwrap" and inputs_echoes > 1 else ["default"]


def prepare(stage: str, inputs: Inputs, variant: str = "default") -> tuple[tuple[Any, ...], dict[str, Any], Scorer]:
    """Positional arguments of a stage on its true input, the keywords that may be supplied, and the scorer."""
    mask, grid = inputs.mask, inputs.grid
    echoes = [0] if variant == "one_echo" else list(range(len(inputs.echo_times_s)))
    supplied: dict[str, Any] = {
        "echo_times_s": tuple(inputs.echo_times_s[e] for e in echoes),
        "b0_tesla": inputs.b0_tesla,
        "magnitude": lambda: inputs["magnitude"][echoes],
        "r2star_per_s": lambda: inputs.get("r2star_hz"),
        "region": lambda: None if inputs.labels is None else (inputs.labels == LABELS["white_matter"]) & mask,
    }
    if stage == "mask":
        return (inputs["magnitude"], inputs["phase_rad"], grid), supplied, lambda m: overlap(m, mask)
    if stage == "offset":
        return (inputs["phase_rad"], mask, grid), supplied, lambda p: offset_error(p, inputs)
    if stage == "unwrap":
        phase = inputs.wrapped_rad(echoes)
        return (phase, mask, grid), supplied, lambda p: wrong_turns(p, inputs, echoes)
    if stage == "field":
        scan = (inputs.unwrapped_rad(), inputs["magnitude"], inputs.echo_times_s, inputs.b0_tesla, mask, grid)
        return scan, supplied, lambda r: kept(r[0], inputs["carried_ppm"], inputs, mask, field=True)
    if stage == "background":
        first = (inputs["total_ppm"], mask, grid)
        return first, supplied, lambda r: kept(r[0], inputs["local_ppm"], inputs, r[1])
    truth = inputs["chi_ppm"]
    if stage == "inversion":
        return (inputs["local_ppm"], mask, grid), supplied, lambda x: kept(x, truth, inputs, mask)
    if stage == "single_step":
        return (inputs["total_ppm"], mask, grid), supplied, lambda x: kept(x, truth, inputs, mask)
    return (truth, mask, grid), supplied, lambda r: shift_error(r[0], truth, mask, r[1])


def keywords(function: Callable[..., Any], supplied: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """The reserved keywords that a method wants, made only where it does; `chosen` takes what it records."""
    supplied = {**supplied, "record": chosen.__setitem__}
    extra = {}
    for name in stages.supplied(function):
        value = supplied.get(name)
        extra[name] = value() if callable(value) and name != "record" else value
    return extra


def kept(
    array: np.ndarray, truth: np.ndarray, inputs: Inputs, valid: np.ndarray, *, field: bool = False
) -> dict[str, float | None]:
    """Scores in the valid part of the mask, and XSIM over the full mask, where what is not valid counts as zero.

    A total field is known up to a constant only (`field`): the median difference is removed first.
    """
    mask = inputs.mask
    if field:
        scores = asdict(score_field(array, truth, mask, valid=valid))
    else:
        scores = asdict(score(array, truth, mask, valid=valid, labels=inputs.labels))
    out = {name: scores[name] for name in (*KEPT, *(["off_pct"] if field else [])) if scores[name] is not None}
    for lesion in ("calcification", "haemorrhage"):
        for what in ("moment_error_pct", "streak_ppm"):
            if scores[f"{lesion}_{what}"] is not None:
                out[f"{lesion}_{what}"] = scores[f"{lesion}_{what}"]
    if not valid[mask].all():
        out["xsim_full"] = (score_field if field else score)(array, truth, mask, valid=mask).xsim
    else:
        out["xsim_full"] = out["xsim"]
    return out


def shift_error(chi_ppm: np.ndarray, truth: np.ndarray, mask: np.ndarray, value_ppm: float) -> dict[str, float | None]:
    """A reference shifts the map by one value and does nothing else: the value, and the most it is off by."""
    error = np.abs((truth - chi_ppm)[mask] - value_ppm)
    return {"max_error_ppm": float(error.max()), "value_ppm": float(value_ppm)}


def overlap(found: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Dice overlap, and the shares of voxels missed and of voxels outside the truth (of the truth's size)."""
    both, size = np.count_nonzero(found & truth), np.count_nonzero(truth)
    return {
        "dice": 2 * both / (np.count_nonzero(found) + size),
        "missed_pct": 100 * (1 - both / size),
        "outside_pct": 100 * np.count_nonzero(found & ~truth) / size,
    }


def wrong_turns(phase_rad: np.ndarray, inputs: Inputs, echoes: list[int]) -> dict[str, float | None]:
    """Share of voxels more than half a turn from the truth, each echo less its commonest whole turns."""
    wrong, spread, carried = [], [], inputs["carried_ppm"][inputs.mask]
    for phase, echo in zip(phase_rad, echoes, strict=True):
        rest = phase[inputs.mask] - inputs.rad_per_ppm(echo) * carried
        rest -= TWO_PI * np.rint(np.median(rest) / TWO_PI)
        wrong.append(100 * float((np.abs(rest) > np.pi).mean()))
        spread.append(float(np.sqrt((rest**2).mean())))
    return {"wrong_pct": float(np.mean(wrong)), "wrong_worst_echo_pct": max(wrong), "rms_rad": float(np.mean(spread))}


def offset_error(phase_rad: np.ndarray, inputs: Inputs) -> dict[str, float | None]:
    """How far the phase is from the true field's, rad, weighted by magnitude; a constant does not count."""
    carried, errors = inputs["carried_ppm"][inputs.mask], []
    for echo in range(len(phase_rad)):
        rest = phase_rad[echo][inputs.mask] - inputs.rad_per_ppm(echo) * carried
        weight = inputs["magnitude"][echo][inputs.mask]
        rest = np.angle(np.exp(1j * rest) * np.exp(-1j * np.angle((weight * np.exp(1j * rest)).sum())))
        errors.append(float(np.sqrt((weight * rest**2).sum() / weight.sum())))
    return {"rms_rad": float(np.mean(errors))}
