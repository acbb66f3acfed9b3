"""What the parts of a card must be together: rules that no single field can state."""

import math
import re
from collections.abc import Iterable, Mapping

from qsm_runtime.errors import ModelError
from qsm_runtime.networks.card import SCHEMA, Card, valid_name
from qsm_runtime.networks.card_parts import Channel, Normalisation, Port, SelfTest
from qsm_runtime.networks.card_words import GIVES, TAKES, UNITS, UNSCALED

PROXIMAL = {"learned_proximal": "inversion", "joint_proximal": "single_step"}  # and what they start from


def check(card: Card) -> None:
    """Raises ModelError naming the field."""
    _need(card.schema == SCHEMA, f"schema = {card.schema!r}, but this version reads {SCHEMA!r}")
    _need(valid_name(card.name), f"name = {card.name!r}: use lower-case letters, digits, - _ . only")
    for name in ("version", "title", "citation"):
        _need(bool(getattr(card, name).strip()), f"{name} is empty")
    _file(card)
    _ports("inputs", card.inputs)
    _ports("outputs", card.outputs)
    _task(card)
    _scaling("normalisation.inputs", card.normalisation.inputs, card.inputs)
    _scaling("normalisation.outputs", card.normalisation.outputs, card.outputs)
    _geometry(card)
    _sizes(card)
    _domain(card)
    _need(card.runtime.bytes_per_voxel > 0, "runtime.bytes_per_voxel must be above 0")
    _need(bool(card.runtime.providers), "runtime.providers is empty; name at least cpu")
    _need(card.mask.erode_mm >= 0, "mask.erode_mm must not be below 0")
    _physics(card)
    _self_tests(card)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ModelError(otherwise)


def _file(card: Card) -> None:
    name = card.file.name
    _need(
        name.endswith(".onnx") and "/" not in name and "\\" not in name,
        f"file.name = {name!r} must be an .onnx file beside the card, without a folder",
    )
    _need(
        re.fullmatch(r"[0-9a-f]{64}", card.file.sha256) is not None,
        "file.sha256 must be 64 lower-case hexadecimal digits",
    )
    _need(card.file.opset >= 1, "file.opset must be at least 1")


def _ports(path: str, ports: tuple[Port, ...]) -> None:
    _need(bool(ports), f"{path} is empty")
    names = [p.tensor for p in ports]
    for i, port in enumerate(ports):
        here = f"{path}[{i}]"
        _need(bool(port.tensor), f"{here}.tensor is empty")
        _need(names.index(port.tensor) == i, f"{here}.tensor = {port.tensor!r} is there twice")
        _need(
            set(port.axes) <= set("ncxyz") and len(set(port.axes)) == len(port.axes),
            f"{here}.axes = {port.axes!r} must name each axis once, by the letters n c x y z",
        )
        if port.meaning == "stack":
            _need(len(port.channels) > 1, f"{here}.channels: a stack names its two or more channels")
            _need("c" in port.axes, f"{here}.axes = {port.axes!r}: a stack needs a channel axis c")
            for k, channel in enumerate(port.channels):
                _need(channel.meaning != "stack", f"{here}.channels[{k}].meaning: a stack holds no stack")
                _unit(f"{here}.channels[{k}]", channel)
        else:
            _need(not port.channels, f"{here}.channels are for meaning stack only")
            _unit(here, port)


def _unit(path: str, part: Port | Channel) -> None:
    valid = UNITS.get(part.meaning, ("1",))
    _need(
        part.unit in valid,
        f"{path}.unit = {part.unit!r} is no unit of {part.meaning}; valid: {', '.join(valid)}",
    )


def _task(card: Card) -> None:
    _need(
        bool(card.gives & set(GIVES[card.task])),
        f"outputs: task {card.task} needs one with meaning {' or '.join(GIVES[card.task])}, not {_list(card.gives)}",
    )
    if card.scheme == "none":
        _need(
            bool(card.takes & set(TAKES[card.task])),
            f"inputs: task {card.task} needs one with meaning {' or '.join(TAKES[card.task])}, not {_list(card.takes)}",
        )
    combine = card.echoes.combine
    _need(
        combine == "single" or "wrapped_phase" in card.takes,
        f"echoes.combine = {combine!r} is for networks that take wrapped_phase; there is no echo to combine",
    )


def _scaling(path: str, rules: Mapping[str, Normalisation], ports: tuple[Port, ...]) -> None:
    by_name = {p.tensor: p for p in ports}
    for tensor, rule in rules.items():
        here = f"{path}.{tensor}"
        _need(tensor in by_name, f"{here} is no tensor of the card; they are {_list(by_name)}")
        port = by_name[tensor]
        for name in ("mean", "std"):
            values = getattr(rule, name)
            if isinstance(values, tuple):
                _need(
                    len(values) == len(port.parts),
                    f"{here}.{name} has {len(values)} values, but the tensor {len(port.parts)} channels",
                )
            if name == "std":
                _need(all(v > 0 for v in _several(values)), f"{here}.std must be above 0")
        _need(
            0 <= rule.low_pct < rule.high_pct <= 100,
            f"{here}.low_pct, high_pct must rise within 0..100, not {rule.low_pct:g}, {rule.high_pct:g}",
        )
        if path.endswith("outputs"):
            _need(rule.kind in ("none", "affine", "atanh"), f"{here}.kind = {rule.kind!r} is for inputs only")
        else:
            _need(rule.kind != "atanh", f"{here}.kind = 'atanh' is for outputs only")
    for name, port in by_name.items():
        scaled = {part.meaning for part in port.parts} - set(UNSCALED)
        _need(
            name in rules or not scaled,
            f'{path}.{name} is missing: state how it is normalised, {{"kind": "none"}} if it is not',
        )


def _several(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)


def _geometry(card: Card) -> None:
    g = card.geometry
    _need(g.tolerance >= 0, "geometry.tolerance must not be below 0")
    if g.voxel_mm is not None:
        _need(min(g.voxel_mm) > 0, "geometry.voxel_mm must be above 0")
    _need(
        g.b0 != "input_vector" or "b0_dir" in card.takes,
        "geometry.b0 = 'input_vector', but no input has meaning b0_dir",
    )
    uses_dipole = "dipole" in card.takes or card.scheme != "none"
    _need(
        g.b0 != "in_dipole" or uses_dipole,
        "geometry.b0 = 'in_dipole', but no input has meaning dipole and physics has no scheme",
    )
    _need(
        card.dipole is not None or not uses_dipole,
        "dipole is null, but the network or its physics uses the dipole: state dc and order",
    )


def _sizes(card: Card) -> None:
    size, patching = card.size, card.patching
    _need(size.multiple >= 1, "size.multiple must be at least 1")
    _need(size.min >= 1, "size.min must be at least 1")
    _need(size.max is None or size.max >= size.min, "size.max must not be below size.min")
    for path, shape in (("size.fixed", size.fixed), ("patching.patch", patching.patch)):
        if shape is not None:
            _need(
                all(n >= 1 and n % size.multiple == 0 for n in shape),
                f"{path} = {list(shape)} must be multiples of size.multiple = {size.multiple}",
            )
    _need(patching.allowed or patching.patch is None, "patching.patch is given, but patching.allowed is false")
    _need(min(patching.crop) >= 0, "patching.crop must not be below 0")
    _need(min(patching.overlap) >= 0, "patching.overlap must not be below 0")
    if patching.patch is not None:
        for n, c, o in zip(patching.patch, patching.crop, patching.overlap, strict=True):
            _need(n - 2 * c > o, f"patching: a patch of {n} less a crop of 2 x {c} must be more than the overlap {o}")


def _domain(card: Card) -> None:
    for name in ("b0_tesla", "chi_ppm", "field_ppm", "voxel_mm", "angle_deg", "snr"):
        span = getattr(card.domain, name)
        _need(span is None or span[0] <= span[1], f"domain.{name} = {span} must be [from, to]")


def _physics(card: Card) -> None:
    p = card.physics
    if p is None or p.scheme == "none":
        return
    _need(card.task in ("inversion", "single_step"), f"physics is for tasks that give chi, not {card.task}")
    _need(1 <= p.passes <= 100, "physics.passes must lie between 1 and 100")
    for name in ("step", "weight"):
        values = getattr(p, name)
        if values is not None:
            _need(all(math.isfinite(v) for v in _several(values)), f"physics.{name} must be finite")
            _need(
                not isinstance(values, tuple) or len(values) == p.passes,
                f"physics.{name} must be one number or one for each of the {p.passes} passes",
            )
    needed = {
        "proximal_gradient": ("step",),
        "half_quadratic": ("weight", "cg_steps"),
        "schatten_cg": ("weight", "power", "cg_steps"),
        "learned_proximal": ("weight", "cg_steps"),
        "joint_proximal": ("weight", "cg_steps"),
    }
    for name in needed.get(p.scheme, ()):
        _need(getattr(p, name) is not None, f"physics.{name} is missing: scheme {p.scheme} needs it")
    if p.scheme in PROXIMAL:
        task = PROXIMAL[p.scheme]
        _need(card.task == task, f"physics.scheme {p.scheme} is for task {task}, not {card.task}")
        _need(isinstance(p.weight, float), f"physics.weight must be one number: {p.scheme} has one ridge")
        _need(card.dipole is None or card.dipole.dc == 0, f"dipole.dc must be 0: {p.scheme} takes D(0) = 0")


def _self_tests(card: Card) -> None:
    tests = card.self_test
    _need(len(tests) >= 2, "self_test must hold two pairs or more, of unequal sizes")
    for i, test in enumerate(tests):
        here = f"self_test[{i}]"
        _need(
            test.file.endswith(".npz") and "/" not in test.file and "\\" not in test.file,
            f"{here}.file = {test.file!r} must be an .npz file beside the card, without a folder",
        )
        _need(test.tolerance > 0, f"{here}.tolerance must be above 0")
        _need(min(test.shape) >= 1, f"{here}.shape must be above 0")
        if card.size.fixed is not None:
            _need(test.shape == card.size.fixed, f"{here}.shape must be size.fixed = {list(card.size.fixed)}")
        elif i:
            _need(_unequal(test, tests[0]), f"{here}.shape must differ from self_test[0].shape on every axis")


def _unequal(one: SelfTest, other: SelfTest) -> bool:
    return all(a != b for a, b in zip(one.shape, other.shape, strict=True))


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
