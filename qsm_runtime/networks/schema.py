"""JSON values to and from frozen dataclasses, by the annotations; an error names the field by its path.

A field without a default must be there; null is taken only where the annotation has None; a field that the dataclass
does not know is refused with the nearest that it does.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from qsm_runtime.errors import ModelError
from qsm_runtime.stages import unknown

T = TypeVar("T")
UNKNOWN = "?"  # in a draft, where null would be an answer
PLURALS = {float: "numbers", int: "whole numbers", str: "texts"}


def read(kind: type[T], value: Any, path: str = "") -> T:
    """`value` (as json.loads gives it) as the dataclass `kind`. Raises ModelError: a line for each wrong field."""
    if not isinstance(value, Mapping):
        raise ModelError(f"{path or 'the card'} must be an object, not {_shown(value)}")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    problems = [unknown(f"field of {path or 'the card'}", name, known) for name in value if name not in known]
    hints = get_type_hints(kind)
    found = {}
    for name, field in known.items():
        where = f"{path}.{name}" if path else name
        if name in value:
            try:
                found[name] = _value(hints[name], value[name], where)
            except ModelError as error:
                problems.append(str(error))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where} is missing; it takes {describe(hints[name])}")
    if problems:
        raise ModelError("\n".join(problems))
    return kind(**found)


def write(value: Any) -> Any:
    """A dataclass as plain values for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: write(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: write(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [write(v) for v in value]
    return value


def describe(annotation: Any) -> str:
    """What a field takes, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(repr(a).replace(chr(39), chr(34)) for a in args)}"
    if origin in (Union, UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is tuple:
        many = PLURALS.get(args[0]) or f"values, each {describe(args[0])}"
        return f"a list of {many}" if Ellipsis in args else f"a list of {len(args)} {many}"
    if dataclasses.is_dataclass(annotation) or origin is not None:
        return "an object"
    return {float: "a number", int: "a whole number", str: "a text", bool: "true or false", NoneType: "null"}[
        annotation
    ]


def _value(annotation: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _first_that_fits(args, value, path)
    if value is None or value == UNKNOWN:
        raise ModelError(f"{path} is still to be filled in; it takes {describe(annotation)}")
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
        texts = [a for a in args if isinstance(a, str)]
        if texts and isinstance(value, str):
            raise ModelError(unknown(f"value of {path}", value, texts))
    elif origin is tuple and isinstance(value, list | tuple):
        if Ellipsis in args:
            return tuple(_each([(args[0], v, f"{path}[{i}]") for i, v in enumerate(value)]))
        if len(value) == len(args):
            return tuple(_each([(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))]))
    elif origin is not None and origin is not tuple and isinstance(value, Mapping):
        return dict(zip(value, _each([(args[1], v, f"{path}.{key}") for key, v in value.items()]), strict=True))
    elif dataclasses.is_dataclass(annotation):
        return read(annotation, value, path)  # type: ignore[arg-type]
    elif annotation is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif annotation in (int, str, bool) and type(value) is annotation:
        return value
    raise ModelError(f"{path} = {_shown(value)} is not {describe(annotation)}")


def _each(parts: list[tuple[Any, Any, str]]) -> list[Any]:
    found, problems = [], []
    for part in parts:
        try:
            found.append(_value(*part))
        except ModelError as error:
            problems.append(str(error))
    if problems:
        raise ModelError("\n".join(problems))
    return found


def _first_that_fits(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    if value is None or value == UNKNOWN:
        raise ModelError(f"{path} is still to be filled in; it takes {' or '.join(describe(k) for k in kinds)}")
    rest = [k for k in kinds if k is not NoneType]
    if len(rest) == 1:  # its own message says more than "none of these"
        try:
            return _value(rest[0], value, path)
        except ModelError as error:
            raise ModelError(f"{error} or null" if str(error).endswith(describe(rest[0])) else str(error)) from None
    for kind in rest:
        try:
            return _value(kind, value, path)
        except ModelError:
            continue
    raise ModelError(f"{path} = {_shown(value)} is not {' or '.join(describe(k) for k in rest)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
