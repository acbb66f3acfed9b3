"""Parts of figures: logarithmic ticks in plain numbers, and names beside points that do not cover each other."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

SIZE_PT = 8.0
OFFSETS_PT = (5, -12, 16, -23, 27, -34, 38, -45, 49)  # tried in turn: above, below, farther


def plain_ticks(axis: Any) -> None:
    """1, 2 and 5 of each decade as plain numbers, on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def name_points(figure: Figure, axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """The name of each (x, y, name) beside it, moved up or down until it is clear of the others."""
    figure.draw_without_rendering()  # the layout settles where a point is
    unit = figure.dpi / 72
    taken: list[tuple[float, float, float, float]] = []
    for x, y, _ in points:
        px, py = axis.transData.transform((x, y)) / unit
        taken.append((px - 5, py - 5, px + 5, py + 5))
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        px, py = axis.transData.transform((x, y)) / unit

        def box(off: float, px: float = px, py: float = py, name: str = name) -> tuple[float, float, float, float]:
            return px + 4, py + off, px + 6 + 0.55 * SIZE_PT * len(name), py + off + SIZE_PT

        off = next((o for o in OFFSETS_PT if not any(_meet(box(o), other) for other in taken)), OFFSETS_PT[0])
        taken.append(box(off))
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#777777"} if off not in OFFSETS_PT[:2] else None
        axis.annotate(name, (x, y), (6, off), textcoords="offset points", fontsize=SIZE_PT, arrowprops=line)


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
