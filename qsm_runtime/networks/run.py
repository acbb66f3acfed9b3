"""A network on a scan: found, judged, fed as its card says, and its output brought back to the scan's grid.

Every array that goes in has a meaning (a word of networks/card.py) and the runtime's own unit and sign; so has every
array that comes out. What was run, where, and what was done to the arrays on the way goes to `record`.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qsm_runtime import stages
from qsm_runtime.errors import (
    DeviceError,
    InputError,
    MetadataError,
    ModelError,
    QsmWarning,
    ReconstructionError,
    UsageError,
)
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.morphology import erode
from qsm_runtime.kernels.signal import combine_magnitude
from qsm_runtime.kernels.weights import data_weights
from qsm_runtime.networks import adapt, guard, registry, unrolled
from qsm_runtime.networks.adapt import Sizes
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.frame import LOSS_WARNED, Frame
from qsm_runtime.networks.learned_proximal import learned_proximal
from qsm_runtime.networks.physics import Dipole, tensor
from qsm_runtime.networks.ports import Net
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime

Record = Callable[[str, object], None] | None
Progress = Callable[[float], None] | None
T = TypeVar("T")
FIELDS = ("local_field", "total_field")
TRANSFORMS_ITSELF = "learned_proximal"  # the scheme that crops and pads on its own
MARGIN_VOXELS = 4  # kept around the mask: what networks saw around a brain
PHYSICS_MARGIN_MM = 8.0  # the same where the host transforms: keeps periodic images 16 mm apart
FREE_SHARE = 0.8  # of the free memory that a network may take
RETRIES = 2  # with a quarter of the memory each, where an allocation fails


class Leave(Exception):
    """The network is left for the fallback method; the arguments say why."""


@dataclass(frozen=True)
class Known:
    """What a stage knows beside its arrays; None where it is not known.

    echo_times_s    of all echoes; echo_time_s: the one that a single phase array was taken at
    reliability     float32 (x, y, z), 1/ppm
    magnitude       float32 (x, y, z), or (echo, x, y, z), which is combined where a network asks for it
    """

    b0_tesla: float | None = None
    echo_times_s: Sequence[float] | None = None
    echo_time_s: float | None = None
    reliability: np.ndarray | None = None
    magnitude: np.ndarray | None = None
    r2star_per_s: np.ndarray | None = None


@dataclass(frozen=True)
class Made:
    """Arrays by meaning on the scan's grid, float32 (x, y, z) or (class, x, y, z), the mask they hold in, the card."""

    values: Mapping[str, np.ndarray]
    mask: np.ndarray
    card: Card


def choose(tasks: Sequence[str], name: str, runtime: Runtime | None) -> tuple[Model, Runtime]:
    """The model, and the runtime or its default. Raises UsageError where the model is for another task."""
    runtime = runtime or Runtime()
    model = registry.find(name, runtime.models)
    if model.card.task not in tasks:
        raise UsageError(
            f"model {model.card.name} is for the task {model.card.task}, not {' or '.join(tasks)}; "
            "`qsm models list` shows which model does what"
        )
    return model, runtime


def run(
    model: Model,
    arrays: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
    grid: Grid,
    *,
    runtime: Runtime,
    known: Known,
    fallback: str = "",
    progress: Progress = None,
    record: Record = None,
) -> Made:
    """One run of a network.

    arrays    by meaning, float32 (x, y, z)
    mask      bool (x, y, z); None where the network finds it
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
    said = _judge(card, arrays, mask, grid, known)
    _settle(said, runtime, fallback)
    frame = Frame(card, mask, grid, _sizes(card, grid), _margin(card, grid))
    loss = _rotation_loss(frame, arrays, mask)
    if loss is not None and loss > LOSS_WARNED:
        said.append(f"turning the field to B0 along z and back changes it by {100 * loss:.0f} %")
        _settle(said[-1:], runtime, fallback)
    values, about = _computed(model, arrays, frame, runtime, known, progress)
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
    wanted = runtime.fallback if runtime is not None else ""
    fallback = wanted if wanted != "network" and wanted in stages.methods(stage) else ""
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


def _judge(card: Card, arrays: Mapping[str, np.ndarray], mask: np.ndarray, grid: Grid, known: Known) -> list[str]:
    """Doubts; what cannot be right raises InputError."""
    said: list[str] = []
    field = next((arrays[name] for name in FIELDS if name in arrays), None)
    for name in FIELDS:
        if name in arrays:
            guard.check_units(arrays[name], mask, name)
    if "local_field" in arrays:
        seen = guard.look(arrays["local_field"], mask, grid)
        if seen is not None:
            guard.check_b0(seen, grid)
            said += guard.doubts(seen)
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


def has_physics(card: Card) -> bool:
    return card.physics is not None and card.physics.scheme != "none"


def _on_frame(card: Card) -> bool:
    """Whether the host transforms the frame itself."""
    return card.physics is not None and card.physics.scheme not in ("none", TRANSFORMS_ITSELF)


def _margin(card: Card, grid: Grid) -> Sizes:
    if card.task == "mask" or (card.physics is not None and card.physics.scheme == TRANSFORMS_ITSELF):
        return 0, 0, 0
    if not _on_frame(card):
        return MARGIN_VOXELS, MARGIN_VOXELS, MARGIN_VOXELS
    x, y, z = (int(np.ceil(PHYSICS_MARGIN_MM / v)) for v in grid.voxel_mm)
    return x, y, z


def _sizes(card: Card, grid: Grid) -> Callable[[Sizes], Sizes]:
    size = card.size
    multiple, smallest = (size.multiple,) * 3, (size.min,) * 3

    def of(shape: Sizes) -> Sizes:
        if _on_frame(card):
            shape = padded_shape(shape)
        fixed = None if card.patching.allowed else size.fixed
        return adapt.padded_sizes(shape, multiple, smallest, fixed)

    return of


def _rotation_loss(frame: Frame, arrays: Mapping[str, np.ndarray], mask: np.ndarray) -> float | None:
    field = next((arrays[name] for name in FIELDS if name in arrays), None)
    return None if field is None else frame.rotation_loss(np.where(mask, field, np.float32(0)), mask)


def _computed(
    model: Model, arrays: Mapping[str, np.ndarray], frame: Frame, runtime: Runtime, known: Known, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Outputs by meaning on the frame, and what ran."""
    from qsm_runtime.networks.session import open_session  # the import of onnxruntime waits until a network is run

    values = {
        name: frame.put(x, wrapped=name == "wrapped_phase", magnitude=known.magnitude) for name, x in arrays.items()
    }
    given = _given(model.card, frame, known)
    with open_session(model, runtime) as session:
        limit = _limit_mib(runtime, session.provider)
        for attempt in range(RETRIES + 1):
            try:
                inner = None if has_physics(model.card) else progress
                net = Net(model.card, session.run, frame, given, limit, inner)
                made = _through(model.card, net, values, frame, known, progress)
                break
            except MemoryError as error:
                if attempt == RETRIES or not model.card.patching.allowed:
                    raise ReconstructionError(
                        f"{error}; give a smaller memory limit, so that it runs in smaller patches, or another device"
                    ) from None
                limit = min(limit, float(np.prod(net.plan.patch)) * model.card.runtime.bytes_per_voxel / 2**20) / 4
        about = session.record()
    return made, {**about, "patches": net.plan.count, "patch": list(net.plan.patch)}


def _through(
    card: Card, net: Net, values: dict[str, np.ndarray], frame: Frame, known: Known, progress: Progress
) -> dict[str, np.ndarray]:
    """The network alone, or as a part of its card's physics."""
    p = card.physics
    if p is None or p.scheme == "none":
        return net(values)
    field = next(values[name] for name in FIELDS if name in values) * frame.mask
    if card.dipole is None:
        raise ModelError(f"card {card.name}: dipole is null, but its physics uses the dipole")

    def several(values: float | tuple[float, ...] | None, otherwise: float = 1.0) -> tuple[float, ...]:
        if isinstance(values, tuple):
            return values
        return (otherwise if values is None else values,) * p.passes

    def network(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return net({**values, **x})

    steps, weights, iterations = several(p.step), several(p.weight), p.cg_steps or 0
    if p.scheme == TRANSFORMS_ITSELF:
        chi = learned_proximal(
            field,
            frame.mask,
            Grid(frame.shape, frame.voxel_mm, frame.b0_dir),
            network,
            reliability=None if known.reliability is None else frame.put(known.reliability),
            passes=p.passes,
            ridge=weights[0],
            iterations=iterations,
            progress=progress,
        )
        return {"chi": chi}
    dipole = Dipole(frame.shape, frame.voxel_mm, frame.b0_dir, card.dipole.dc)
    shared = (field, frame.mask, dipole, network)
    start = dipole.field(field) * np.float32(steps[0]) if p.start == "adjoint" else np.zeros_like(field)
    if p.scheme == "proximal_gradient":
        off_axis = "chi_off_axis_field" if "chi_off_axis_field" in _meanings(card) else ""
        chi = unrolled.proximal_gradient(*shared, steps=steps, off_axis=off_axis, progress=progress)
    elif p.scheme == "half_quadratic":
        chi = unrolled.half_quadratic(*shared, weights=weights, iterations=iterations, start=start, progress=progress)
    elif p.scheme == "schatten_cg":
        chi = unrolled.schatten_cg(
            *shared, weights=weights, power=p.power or 2.0, iterations=iterations, progress=progress
        )
    else:
        weight = net.given.get("weight") if "weight" in _meanings(card) else None
        chi = unrolled.learned_gradient(*shared, steps=steps, start=start, weight=weight, progress=progress)
    return {"chi": chi}


def _meanings(card: Card) -> set[str]:
    return {part.meaning for port in card.inputs for part in port.parts}


def _given(card: Card, frame: Frame, known: Known) -> dict[str, np.ndarray]:
    """What the network may ask for beside its main input, made only where it does."""
    wanted = _meanings(card)
    given: dict[str, np.ndarray] = {
        "b0_dir": np.asarray(frame.b0_dir, np.float32),
        "voxel_mm": np.asarray(frame.voxel_mm, np.float32),
    }
    if known.b0_tesla is not None:
        given["b0"] = np.asarray(known.b0_tesla, np.float32)
    if known.echo_time_s is not None:
        given["echo_time"] = np.asarray(known.echo_time_s, np.float32)
    if "dipole" in wanted:
        if card.dipole is None:
            raise MetadataError(f"card {card.name}: dipole is null, but an input takes it")
        given["dipole"] = tensor(frame.shape, frame.voxel_mm, frame.b0_dir, card.dipole.dc, card.dipole.order)
    if "reliability" in wanted and known.reliability is not None:
        given["reliability"] = frame.put(known.reliability)
    if "weight" in wanted:
        box = frame.grid.shape
        weight = (
            np.ones(box, np.float32)
            if known.reliability is None
            else data_weights(known.reliability, np.ones(box, bool))
        )
        given["weight"] = frame.put(weight) * frame.mask
    if "magnitude" in wanted and known.magnitude is not None:
        whole = known.magnitude.ndim == 4
        given["magnitude"] = frame.put(combine_magnitude(known.magnitude) if whole else known.magnitude)
    if "r2star" in wanted and known.r2star_per_s is not None:
        given["r2star"] = frame.put(known.r2star_per_s)
    return given


def _limit_mib(runtime: Runtime, provider: str) -> float:
    """What the network may take: as set, or a share of what is free; a GPU says itself when it has too little."""
    if runtime.memory_mib is not None:
        return runtime.memory_mib
    if provider in ("cuda", "tensorrt"):
        return float("inf")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return FREE_SHARE * int(lines["MemAvailable"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):  # not Linux
        pass
    try:
        return FREE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 / 2
    except (ValueError, AttributeError):
        return 4096.0
