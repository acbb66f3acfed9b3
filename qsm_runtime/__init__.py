"""Quantitative susceptibility mapping: from gradient-echo phase to susceptibility.

The public names are loaded when first used, so that importing the package stays cheap.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsm_runtime.errors import QsmError
    from qsm_runtime.grid import Grid
    from qsm_runtime.pipeline import Event, Result, reconstruct
    from qsm_runtime.recipe import Recipe
    from qsm_runtime.recipe import load as load_recipe
    from qsm_runtime.scan import Scan

__version__ = version("qsm_runtime")
__all__ = ["Event", "Grid", "QsmError", "Recipe", "Result", "Scan", "__version__", "load_recipe", "reconstruct"]

_HOME = {
    "QsmError": ("errors", "QsmError"),
    "Grid": ("grid", "Grid"),
    "Scan": ("scan", "Scan"),
    "Event": ("pipeline", "Event"),
    "Result": ("pipeline", "Result"),
    "reconstruct": ("pipeline", "reconstruct"),
    "Recipe": ("recipe", "Recipe"),
    "load_recipe": ("recipe", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"qsm_runtime.{module}"), attribute)
