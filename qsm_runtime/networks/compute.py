"""One run of a network on a scan's grid: its frame, its session, its patches, and the physics around it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsm_runtime.errors import MetadataError, ModelError, ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.signal import combine_magnitude
from qsm_runtime.kernels.weights import data_weights
from qsm_runtime.networks import adapt, unrolled
from qsm_runtime.networks.adapt import Sizes
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.frame import Frame
from qsm_runtime.networks.joint_proximal import joint_proximal
from qsm_runtime.networks.learned_proximal import learned_proximal
from qsm_runtime.networks.physics import Dipole, tensor
from qsm_runtime.networks.ports import Net
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime

Progress = Callable[[float], None] | None
FIELDS = ("local_field", "total_field")
TRANSFORM_THEMSELVES = {"learned_proximal": learned_proximal, "joint_proximal": joint_proximal}  # they crop and pad
MARGIN_VOXELS = 4  # kept around the mask: what networks saw around a brain
PHYSICS_MARGIN_MM = 8.0  # the same where the host transforms: keeps periodic images 16 mm apart
FREE_SHARE = 0.8  # of the free memory that a network may take
RETRIES = 2  # with a quarter of the memory each, where an allocation fails


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


def frame_of(card: Card, mask: np.ndarray, grid: Grid) -> Frame:
    """The grid that the network sees."""
    return Frame(card, mask, grid, _sizes(card), _margin(card, grid))


def computed(
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
                inner = None if model.card.scheme != "none" else progress
                net = Net(model.card, session.run, frame, given, limit, inner)
                made = _through(model.card, net, values, frame, known, progress)
                break
            except MemoryError as error:
                if attempt == RETRIES or not model.card.patching.allowed:
                    raise ReconstructionError(f"{error}; free memory, or take another device or method") from None
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
    if p.scheme in TRANSFORM_THEMSELVES:
        chi = TRANSFORM_THEMSELVES[p.scheme](
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
        off_axis = "chi_off_axis_field" if "chi_off_axis_field" in card.takes else ""
        chi = unrolled.proximal_gradient(*shared, steps=steps, off_axis=off_axis, progress=progress)
    elif p.scheme == "half_quadratic":
        chi = unrolled.half_quadratic(*shared, weights=weights, iterations=iterations, start=start, progress=progress)
    elif p.scheme == "schatten_cg":
        chi = unrolled.schatten_cg(
            *shared, weights=weights, power=p.power or 2.0, iterations=iterations, progress=progress
        )
    else:
        weight = net.given.get("weight") if "weight" in card.takes else None
        chi = unrolled.learned_gradient(*shared, steps=steps, start=start, weight=weight, progress=progress)
    return {"chi": chi}


def _given(card: Card, frame: Frame, known: Known) -> dict[str, np.ndarray]:
    """What the network may ask for beside its main input, made only where it does."""
    wanted = card.takes
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


def _on_frame(card: Card) -> bool:
    """Whether the host transforms the frame itself."""
    return card.scheme not in ("none", *TRANSFORM_THEMSELVES)


def _margin(card: Card, grid: Grid) -> Sizes:
    if card.task == "mask" or card.scheme in TRANSFORM_THEMSELVES:
        return 0, 0, 0
    if not _on_frame(card):
        return MARGIN_VOXELS, MARGIN_VOXELS, MARGIN_VOXELS
    x, y, z = (int(np.ceil(PHYSICS_MARGIN_MM / v)) for v in grid.voxel_mm)
    return x, y, z


def _sizes(card: Card) -> Callable[[Sizes], Sizes]:
    size = card.size
    multiple, smallest = (size.multiple,) * 3, (size.min,) * 3

    def of(shape: Sizes) -> Sizes:
        if _on_frame(card):
            shape = padded_shape(shape)
        fixed = None if card.patching.allowed else size.fixed
        return adapt.padded_sizes(shape, multiple, smallest, fixed)

    return of
