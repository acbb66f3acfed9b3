"""A network on a scan: found, judged, fed as its card says, and its output brought back to the scan's grid.

Every array that goes in has a meaning (a word of networks/card_words.py) and the runtime's own unit and sign; so has
every array that comes out. What was run, where, and what was done to the arrays on the way goes to `record`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qsm_runtime import stages
from qsm_runtime.errors import (
    DeviceError,
    InputError,
    ModelError,
    QsmWarning,
    ReconstructionError,
)
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.morphology import erode
from qsm_runtime.networks import guard, signature
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.compute import FIELDS, Known, computed, frame_of
from qsm_runtime.networks.frame import LOSS_WARNED, Frame
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Implausible, Runtime

Record = Callable[[str, object], None] | None
Progress = Callable[[float], None] | None
T = TypeVar("T")


class Leave(Exception):
    """The network is left for the fallback method; the arguments say why."""


@dataclass(frozen=True)
class Made:
    """Arrays by meaning on the scan's grid, float32 (x, y, z) or (class, x, y, z), the mask they hold in, the card."""

    values: Mapping[str, np.ndarray]
    mask: np.ndarray
    card: Card


def run(
    model: Model,
    arrays: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
    grid: Grid,
    *,
    runtime: Runtime,
    known: Known,
    implausible: Implausible = "refuse",
    fallback: str = "",
    progress: Progress = None,
    record: Record = None,
) -> Made:
    """One run of a network.

    arrays    by meaning, float32 (x, y, z)
    mask      bool (x, y, z); None where the network finds it
    implausible  what happens to a local field that speaks against its own B0, voxels or sign (networks/signature.py)
    fallback  method of the stage that takes over out of the trained domain, by raising Leave; "": none
    Raises InputError, MetadataError, UsageError for input that cannot be right, ReconstructionError where the domain is
    left and runtime.strict is set, ModelError, DeviceError.
    """
    card = model.card
    for name, array in arrays.items():
        grid.check(array, name)
    if mask is None:
        if card.mask.needed:
            raise InputError(f"network {card.name} needs a mask and none was given; give one with --mask")
        mask = np.ones(grid.shape, bool)
    else:
        grid.check(mask, "mask")
        mask = _eroded(mask, card, grid)
    said = _judge(card, arrays, mask, grid, known, implausible)
    _settle(said, runtime, fallback)
    frame = frame_of(card, mask, grid)
    loss = _rotation_loss(frame, arrays, mask)
    if loss is not None and loss > LOSS_WARNED:
        said.append(f"turning the field to B0 along z and back changes it by {100 * loss:.0f} %")
        _settle(said[-1:], runtime, fallback)
    values, about = computed(model, arrays, frame, runtime, known, progress)
    found = {name: frame.take(x) for name, x in values.items()}
    for name, x in found.items():
        if not np.isfinite(x).all():
            raise ReconstructionError(f"network {card.name} gave {name} values that are not finite")
        if card.mask.apply:
            x *= mask
    if "chi" in found:
        if card.mask.reference == "mask_mean":
            found["chi"] = np.where(mask, found["chi"] - found["chi"][mask].mean(dtype=float), 0).astype(np.float32)
        beyond = guard.outside_chi(card, found["chi"], mask)
        said += beyond
        _settle(beyond, runtime, fallback)
    if record is not None:
        turned = {} if loss is None else {"rotation_loss": round(loss, 4)}
        record("network", {**about, "grid": frame.steps, **turned, "doubts": said})
    return Made(found, mask, card)


def or_fallback(
    stage: str,
    runtime: Runtime | None,
    network: Callable[[str], T],
    arguments: Sequence[Any],
    supplied: Mapping[str, Any],
    record: Record,
) -> T:
    """`network(fallback)`, or where it leaves or fails, what the runtime's fallback method makes of the same input."""
    fallback = runtime.fallback_of(stage) if runtime is not None else ""
    try:
        return network(fallback)
    except Leave as leave:
        why = "; ".join(str(a) for a in leave.args)
    except (ModelError, DeviceError, ReconstructionError) as error:
        if not fallback:
            raise
        why = str(error)
    warnings.warn(f"{stage} by {fallback} instead of the network: {why}", QsmWarning, stacklevel=3)
    if record is not None:
        record("fallback", {"method": fallback, "because": why})
    method = stages.method(stage, fallback)
    result: T = method(*arguments, **{name: supplied.get(name) for name in stages.supplied(method)})
    return result


def _eroded(mask: np.ndarray, card: Card, grid: Grid) -> np.ndarray:
    kept = erode(mask, card.mask.erode_mm, grid.voxel_mm) if card.mask.erode_mm > 0 else mask
    if not kept.any():
        raise ReconstructionError(
            f"nothing is left of the mask for network {card.name}"
            + (f", which needs it eroded by {card.mask.erode_mm:g} mm" if mask.any() else ": it is empty")
            + "; check the masking step"
        )
    return kept


def _judge(
    card: Card,
    arrays: Mapping[str, np.ndarray],
    mask: np.ndarray,
    grid: Grid,
    known: Known,
    implausible: Implausible,
) -> list[str]:
    """Doubts; what cannot be right raises InputError."""
    said: list[str] = []
    field = next((arrays[name] for name in FIELDS if name in arrays), None)
    for name in FIELDS:
        if name in arrays:
            said += guard.check_units(arrays[name], mask, name)
    if "wrapped_phase" in arrays:
        guard.check_phase(arrays["wrapped_phase"], mask)
    if "local_field" in arrays:
        seen = signature.look(arrays["local_field"], mask, grid)
        wrong = signature.wrong(seen, grid) if seen is not None else []
        if wrong and implausible == "refuse":
            raise InputError("; ".join(wrong) + ". Where the object is like that, implausible=warn runs the network")
        said += wrong
        said += signature.doubts(seen) if seen is not None and not wrong else []
    return said + guard.outside(
        card,
        mask,
        grid,
        b0_tesla=known.b0_tesla,
        field_ppm=field,
        reliability=known.reliability,
        echo_times_s=known.echo_times_s,
    )


def _settle(said: Sequence[str], runtime: Runtime, fallback: str) -> None:
    """A doubt is the fallback's cue, an error where strict, else a warning."""
    if not said:
        return
    if fallback:
        raise Leave(*said)
    if runtime.strict:
        raise ReconstructionError(
            "; ".join(said) + ": --strict allows no network here; choose a classical method, or --fallback METHOD"
        )
    for one in said:
        warnings.warn(one, QsmWarning, stacklevel=4)


def _rotation_loss(frame: Frame, arrays: Mapping[str, np.ndarray], mask: np.ndarray) -> float | None:
    field = next((arrays[name] for name in FIELDS if name in arrays), None)
    return None if field is None else frame.rotation_loss(np.where(mask, field, np.float32(0)), mask)
