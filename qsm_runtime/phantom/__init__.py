"""Simulated heads and analytic sources: data with a known truth, wherever no data is at hand."""

from qsm_runtime.phantom.analytic import cylinder_field_ppm, sphere_field_ppm
from qsm_runtime.phantom.head import DEMO_GRID, Head, Truth, simulate_head
from qsm_runtime.phantom.tissues import DEEP_GREY, LABELS

__all__ = [
    "DEEP_GREY",
    "DEMO_GRID",
    "LABELS",
    "Head",
    "Truth",
    "cylinder_field_ppm",
    "simulate_head",
    "sphere_field_ppm",
]
