"""Echoes to field: (phase_rad, magnitude, echo_times_s, b0_tesla, mask, grid, *, ...) -> (total_ppm, reliability)."""

from qsm_runtime.field.linear import linear, nonlinear
from qsm_runtime.field.weighted import weighted

METHODS = {"weighted": weighted, "linear": linear, "nonlinear": nonlinear}
