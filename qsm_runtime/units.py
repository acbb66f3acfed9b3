"""Physical constants and unit conversions, written once.

Phase [rad] = +2 pi * gamma * dB [T] * TE [s]; paramagnetic shifts are positive.
"""

from math import pi

GAMMA_HZ_PER_T = 42.577478518e6  # proton gyromagnetic ratio / 2 pi, CODATA 2018
TWO_PI = 2.0 * pi


def hz_per_ppm(b0_tesla: float) -> float:
    """Frequency shift in Hz of one ppm of field at `b0_tesla`."""
    return GAMMA_HZ_PER_T * b0_tesla * 1e-6


def rad_per_ppm(b0_tesla: float, echo_time_s: float) -> float:
    """Phase in rad that one ppm of field builds up until `echo_time_s`."""
    return TWO_PI * hz_per_ppm(b0_tesla) * echo_time_s


def b0_from_imaging_frequency(imaging_frequency_mhz: float) -> float:
    """Field strength in T from the proton imaging frequency in MHz."""
    return imaging_frequency_mhz * 1e6 / GAMMA_HZ_PER_T
