"""Physical constants and conversions, against figures known from elsewhere."""

import math

import pytest

from qsm_runtime import units


def test_proton_frequency_at_three_tesla():
    assert units.hz_per_ppm(3.0) == pytest.approx(127.732, abs=1e-3)


def test_phase_is_positive_and_one_turn_a_period():
    period_s = 1 / units.hz_per_ppm(3.0)
    assert units.rad_per_ppm(3.0, period_s) == pytest.approx(2 * math.pi)
    assert units.rad_per_ppm(3.0, 0.02) > 0


def test_conversions_are_linear():
    assert units.hz_per_ppm(7.0) == pytest.approx(7 * units.hz_per_ppm(1.0))
    assert units.rad_per_ppm(3.0, 0.02) == pytest.approx(2 * units.rad_per_ppm(3.0, 0.01))


def test_field_strength_from_imaging_frequency():
    assert units.b0_from_imaging_frequency(123.2) == pytest.approx(2.8936, abs=1e-4)  # a 3 T Siemens magnet
    assert units.b0_from_imaging_frequency(units.hz_per_ppm(1.5)) == pytest.approx(1.5)
