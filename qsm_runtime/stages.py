"""The stages, their methods and the methods' options, read from the code itself.

A stage is a folder with a METHODS dict; a method's options are its keyword-only arguments, but for those that
the pipeline supplies. Nothing is listed twice: a new method is its file and one line in METHODS.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qsm_runtime.errors import UsageError

STAGES = ("mask", "offset", "unwrap", "field", "background", "inversion", "single_step", "reference")
SUPPLIED = frozenset(
    {
        "magnitude",
        "phase_rad",
        "echo_times_s",
        "b0_tesla",
        "reliability",
        "region",
        "r2star_per_s",
        "progress",
        "record",
        "runtime",
    }
)
_required = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option of a method: its name, annotated type and default (inspect.Parameter.empty: must be given)."""

    name: str
    annotation: Any
    default: Any


def methods(stage: str) -> dict[str, Callable[..., Any]]:
    """METHODS of a stage: name -> function. Raises UsageError for an unknown stage."""
    if stage not in STAGES:
        raise UsageError(unknown("stage", stage, STAGES))
    found: dict[str, Callable[..., Any]] = import_module(f"qsm_runtime.{stage}").METHODS
    return found


def method(stage: str, name: str) -> Callable[..., Any]:
    """The function of a method. Raises UsageError that lists the valid names."""
    known = methods(stage)
    if name not in known:
        raise UsageError(unknown(f"{stage} method", name, known))
    return known[name]


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a method, by name."""
    hints = get_type_hints(function)
    return {
        p.name: Option(p.name, hints.get(p.name, Any), p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in SUPPLIED
    }


def supplied(function: Callable[..., Any]) -> set[str]:
    """The reserved keywords that a method wants from the pipeline."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY} & SUPPLIED


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Message for a name that does not exist: the nearest one, and all valid ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {what} {name!r}; {hint}valid: {', '.join(names) or 'none'}"


def check_option(stage: str, name: str, option: str, value: Any) -> Any:
    """`value` converted to the type the method's option is annotated with; a string is parsed.

    Raises UsageError that names the option and what it takes.
    """
    known = options(method(stage, name))
    if option not in known:
        raise UsageError(unknown(f"option of {stage} method {name}", option, known))
    annotation = known[option].annotation
    try:
        return _convert(annotation, value)
    except (ValueError, TypeError):
        raise UsageError(f"{stage}.{option} = {value!r} is not {describe(annotation)}") from None


def describe(annotation: Any) -> str:
    """An annotation in words: 'a number', 'one of a, b'."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args) if len(args) > 1 else repr(args[0])
    if origin in (Union, UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is tuple:
        return f"{'several' if Ellipsis in args else len(args)} values separated by commas"
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", NoneType: "none"}
    return names.get(annotation, str(annotation))


def _convert(annotation: Any, value: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is Literal:
        for allowed in args:
            if value == allowed or str(value) == str(allowed):
                return allowed
        raise ValueError
    if origin in (Union, UnionType):
        for one in sorted(args, key=lambda a: a is str):  # a text accepts everything: try it last
            try:
                return _convert(one, value)
            except (ValueError, TypeError):
                continue
        raise ValueError
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else list(value)
        kinds = [args[0]] * len(parts) if Ellipsis in args else list(args)
        if len(parts) != len(kinds):
            raise ValueError
        return tuple(_convert(k, p) for k, p in zip(kinds, parts, strict=True))
    if annotation is NoneType:
        if value is None or str(value).lower() == "none":
            return None
        raise ValueError
    if annotation is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ValueError
    if annotation is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if annotation is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    if annotation is str:
        return str(value)
    return value
