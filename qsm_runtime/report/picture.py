"""PNG of mid-slices: one row a map, axial, coronal and sagittal, a colour bar with its unit."""

import io as memory
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsm_runtime.pipeline import Result
from qsm_runtime.report.slices import Cut, View
from qsm_runtime.scan import Scan

CHI_WINDOW_PPM = (-0.15, 0.15)
LOCAL_WINDOW_PPM = (-0.05, 0.05)
ROW_INCHES, DPI = 2.6, 110
INK, PAPER = "white", "black"
LETTERS = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))  # left, right, top, bottom of each plane


@dataclass(frozen=True)
class Row:
    """A map (x, y, z) with its title, unit, window (None: from the values) and matplotlib colours.

    Outside `inside` (bool, x, y, z; None: nowhere) nothing is drawn.
    """

    array: np.ndarray
    title: str
    unit: str = ""
    window: tuple[float, float] | None = None
    colours: str = "gray"
    inside: np.ndarray | None = None


def overview(scan: Scan, result: Result, affine: np.ndarray, name: str, methods: str) -> bytes:
    """PNG of magnitude, local (or total) field and susceptibility of a reconstruction."""
    brain, valid = result.brain_mask, result.mask
    first = scan.magnitude[0]
    window = symmetric_window(result.total_ppm, brain)
    rows = [
        Row(first, "magnitude, first echo", window=magnitude_window(first, brain)),
        Row(result.total_ppm, "total field", "ppm", window, "RdBu_r", brain),
    ]
    if result.local_ppm is not None:
        rows.append(Row(result.local_ppm, "local field", "ppm", LOCAL_WINDOW_PPM, inside=valid))
    rows.append(Row(result.chi_ppm, "susceptibility", "ppm", CHI_WINDOW_PPM, inside=valid))
    if (valid != brain).any():
        methods += f"; valid in {np.count_nonzero(valid) / np.count_nonzero(brain):.0%} of the mask"
    return slices_png(rows, affine, result.brain_mask, f"{name}\n{methods}", outline=True)


def comparison(
    first: np.ndarray,
    second: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    names: tuple[str, str],
    window: tuple[float, float] = CHI_WINDOW_PPM,
) -> bytes:
    """PNG of a map, its truth (x, y, z, ppm) and their difference, where both are known; names and window of both."""
    both = mask & (first != 0)
    difference = np.where(both, first - second, np.float32(0))
    rows = [
        Row(first, f"map: {names[0]}", "ppm", window, inside=both),
        Row(second, f"truth: {names[1]}", "ppm", window, inside=mask),
        Row(difference, "map - truth", "ppm", symmetric_window(difference, both), "RdBu_r", both),
    ]
    return slices_png(rows, affine, mask)


def slices_png(
    rows: Sequence[Row], affine: np.ndarray, mask: np.ndarray, title: str = "", *, outline: bool = False
) -> bytes:
    """PNG (bytes) of maps on one grid.

    mask     bool (x, y, z): the slices go through its middle and show its box
    outline  draw the mask's edge on the first row
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cut = Cut.through(View.of(affine), mask)
    sizes = cut.sizes_mm
    highest = max(height for height, _ in sizes)
    scale = ROW_INCHES / highest
    widths = [width * scale for _, width in sizes]
    bar_inches, gap = 0.9, 0.06
    width = sum(widths) + bar_inches + 4 * gap
    head = 0.16 + 0.19 * len(title.splitlines())
    height = len(rows) * (ROW_INCHES + 0.22) + head
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    figure.text(gap / width, 1 - 0.08 / height, title, color=INK, fontsize=9, va="top")
    edges = cut.planes(mask)
    for number, row in enumerate(rows):
        low, high = row.window or value_window(row.array, mask)
        bottom = height - head - (number + 1) * (ROW_INCHES + 0.22)
        left = gap
        shapes = cut.planes(row.inside) if row.inside is not None else (None, None, None)
        for plane, (image, letters) in enumerate(zip(cut.planes(row.array), LETTERS, strict=True)):
            inside = shapes[plane]
            if inside is not None:
                image = np.where(inside, image, np.float32(np.nan))
            tall, wide = (s * scale for s in sizes[plane])
            middle = bottom + (ROW_INCHES - tall) / 2
            axes = figure.add_axes((left / width, middle / height, wide / width, tall / height))
            shown = axes.imshow(image, cmap=row.colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            axes.set_axis_off()
            if outline and number == 0 and edges[plane].any() and not edges[plane].all():
                axes.contour(edges[plane], [0.5], colors="#ffb000", linewidths=0.8)
            if number == 0:
                for text, (x, y, across, up) in zip(letters, _CORNERS, strict=True):
                    axes.text(x, y, text, color="#ffb000", fontsize=7, ha=across, va=up, transform=axes.transAxes)
            left += wide + gap
        figure.text(gap / width, (bottom + ROW_INCHES + 0.05) / height, row.title, color=INK, fontsize=8)
        place = ((left + 0.05) / width, (bottom + 0.15) / height, 0.12 / width, (ROW_INCHES - 0.3) / height)
        bar = figure.colorbar(shown, cax=figure.add_axes(place))
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_edgecolor(INK)  # type: ignore[operator]
        bar.set_label(row.unit, color=INK, fontsize=8)
    out = memory.BytesIO()
    canvas.print_png(out)
    return out.getvalue()


_CORNERS = (
    (0.01, 0.5, "left", "center"),
    (0.99, 0.5, "right", "center"),
    (0.5, 0.99, "center", "top"),
    (0.5, 0.01, "center", "bottom"),
)


def magnitude_window(magnitude: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """From 0 to just under the brightest inside the mask."""
    return 0.0, _positive(float(np.percentile(magnitude[mask], 99)) if mask.any() else float(magnitude.max()))


def symmetric_window(array: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Around 0, so that 98 % of the values inside the mask fit."""
    most = _positive(float(np.percentile(np.abs(array[mask]), 98)) if mask.any() else 0.0)
    return -most, most


def value_window(array: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """From the 1st to the 99th percentile inside the mask."""
    values = array[mask] if mask.any() else array.ravel()
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _positive(value: float) -> float:
    return value if value > 0 else 1.0
