"""Parameters of one study, as OpenRecon sends them: JSON in a TEXT (or CONFIG_TEXT) message.

    {"version": "1.1.0", "parameters": {"config": "qsm", "recipe": "fast", "sendoriginal": true, "datatype": "uint16"}}

Names are compared without case, dashes and underscores (send_original, sendOriginal); values may be texts. An unknown
name is warned of, a value that cannot be is an error: a study must not be answered otherwise than it was asked for.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from qsm_runtime.errors import UsageError
from qsm_runtime.io.mrd.encodings import DataType

CONFIG = re.compile(r"qsm[-_](.+?)(\.(xml|json|cfg))?", re.IGNORECASE)  # a configuration that names a recipe
LONGEST_NAME = 64
IGNORED = ("config", "customconfig", "version")  # which module of a server is meant: there is but this one
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
SHOWN = 10
FLAGS = {  # in this order
    "--phase-scale": "the parameter phasescale",
    "--phase-sign -": "the parameter phasesign minus",
    "--phase-sign": "the parameter phasesign",
    "--echo-times-ms": "the parameter echotimesms",
    "give --b0-tesla": "have the header state it",
    "give --imaging-frequency-mhz": "have the header state it",
    "no sidecar names": "the header does not name",
    "no sidecar states": "the header does not state",
}
SIGNS = {"auto": "auto", "plus": "+", "minus": "-", "+": "+", "-": "-"}


@dataclass(frozen=True)
class Parameters:
    """recipe: empty for the server's own. series: text that the name or image type of the series to be used holds.
    echo_times_ms: instead of the header's. window_ppb: width of the display window."""

    recipe: str = ""
    send_original: bool = True
    data_type: DataType = "uint16"
    phase_scale: str = "auto"
    phase_sign: str = "auto"
    series: str = ""
    echo_times_ms: tuple[float, ...] = ()
    window_ppb: float = 400.0


def parameters_of(text: str, before: Parameters | None = None) -> tuple[Parameters, list[str]]:
    """Parameters over those known before, and warnings. Raises UsageError."""
    before = before or Parameters()
    if not text.strip():
        return before, []
    if not text.lstrip().startswith("{"):
        return before, [f"text that is no JSON parameters was not used ({text.strip()[:40]!r})"]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError('the parameters are no valid JSON; send {"parameters": {...}}') from None
    given = document.get("parameters", document)
    if not isinstance(given, dict):
        raise UsageError('the JSON\'s "parameters" must be an object of names and values')
    changes: dict[str, Any] = {}
    unknown = []
    for name, value in given.items():
        plain = _plain(name)
        if plain in READERS:
            field, read = READERS[plain]
            try:
                changes[field] = read(value)
            except (ValueError, TypeError) as error:
                raise UsageError(f"parameter {name} cannot be {str(value)[:40]!r}: {error}") from None
        elif plain not in IGNORED:
            unknown.append(name[:40])
    said = f"unknown parameters: {', '.join(unknown[:SHOWN])}; known are {', '.join(sorted(READERS))}"
    return replace(before, **changes), [said] if unknown else []


def recipe_in(config: str) -> str:
    """The recipe that a configuration's name asks for, as qsm_fast does; empty where it asks for none."""
    found = CONFIG.fullmatch(config.strip())
    return "" if found is None else recipe_name(found[1])


def recipe_name(value: Any) -> str:
    """A recipe's name as a client gives it, in characters that can be said back; "auto" asks for none."""
    name = re.sub(r"[^\w.+-]", "?", str(value).strip())[:LONGEST_NAME]
    return "" if name.lower() == "auto" else name


def in_parameters(text: str) -> str:
    """A message of the readers, the command line's options in it as what a client of MRD can give."""
    for option, parameter in FLAGS.items():
        text = text.replace(option, parameter)
    return text


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _bool(value: Any) -> bool:
    said = str(value).strip().lower()
    if said in TRUE or said in FALSE:
        return said in TRUE
    raise ValueError("give true or false")


def _text(value: Any) -> str:
    return str(value).strip()


def _data_type(value: Any) -> str:
    if value not in get_args(DataType):
        raise ValueError(f"give one of {', '.join(get_args(DataType))}")
    return value


def _sign(value: Any) -> str:
    if value not in SIGNS:
        raise ValueError("give auto, plus or minus")
    return SIGNS[value]


def _times(value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, list) else str(value).replace(",", " ").split()
    times = tuple(float(item) for item in items)
    if not all(0 < t < 1000 for t in times):
        raise ValueError("give milliseconds")
    return times


def _window(value: Any) -> float:
    width = float(value)
    if not 1 <= width <= 100_000:
        raise ValueError("give a width from 1 to 100000 ppb")
    return width


READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "recipe": ("recipe", recipe_name),
    "sendoriginal": ("send_original", _bool),
    "datatype": ("data_type", _data_type),
    "phasescale": ("phase_scale", _text),
    "phasesign": ("phase_sign", _sign),
    "series": ("series", _text),
    "echotimesms": ("echo_times_ms", _times),
    "windowppb": ("window_ppb", _window),
}
