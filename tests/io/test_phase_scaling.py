"""Phase scales: each convention met, and refusal of what is ambiguous."""

import numpy as np
import pytest

from qsm_runtime.errors import MetadataError, UsageError
from qsm_runtime.io import read_nifti

FLAGS = {"echo_times_s": [0.01], "b0_tesla": 3.0}


@pytest.fixture
def read(scan_files):
    def read_phase(data, meta=None, *, phase_scale="auto", **header):
        phase = scan_files.image("p.nii", data, meta, **header)
        magnitude = scan_files.image("m.nii", scan_files.magnitude[0])
        return read_nifti([magnitude], [phase], phase_scale=phase_scale, **FLAGS)

    return read_phase


def stored(phase_rad, turn, offset):
    """Integers that span `turn` for 2 pi, with -pi at `offset`."""
    return np.clip(np.rint((phase_rad + np.pi) / (2 * np.pi) * turn), 0, turn - 1).astype(np.int16) + np.int16(offset)


# name, turn of the stored integers, their offset, header slope and intercept, sidecar
CONVENTIONS = {
    "siemens": (4096, 0, 1, 0, None),
    "pm4096": (4096, 0, 2, -4096, None),
    "pm4096 13 bits": (8192, -4096, 1, 0, None),
    "mrad GE": (6283, -3141, 1, 0, {"Manufacturer": "GE"}),
    "mrad Philips": (4095, 0, 1.534554, -3142, {"Manufacturer": "Philips"}),
    "rad Philips": (4095, 0, 0.001534462, -3.1415925, {"Manufacturer": "Philips"}),
    "rescale in sidecar": (4095, 0, 1, 0, {"PhilipsRescaleSlope": 1.534554, "PhilipsRescaleIntercept": -3142}),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_integer_conventions(scan_files, read, phase_error, name):
    turn, offset, slope, intercept, meta = CONVENTIONS[name]
    truth = scan_files.phase_rad[0]
    acq = read(stored(truth, turn, offset), meta, slope=slope, intercept=intercept)
    assert phase_error(acq.scan.phase_rad[0], acq.phase_sign * truth) < 0.002
    half = read(stored(truth, turn, offset).astype(np.float32), meta, slope=slope, intercept=intercept)
    np.testing.assert_array_equal(half.scan.phase_rad, acq.scan.phase_rad)  # the same integers resaved as float


@pytest.mark.parametrize("shift", [0.0, np.pi])
def test_radians_as_float(scan_files, read, phase_error, shift):
    truth = scan_files.phase_rad[0]
    acq = read((truth + shift).astype(np.float32))
    assert phase_error(acq.scan.phase_rad[0], truth + shift) < 1e-5
    assert "rad" in acq.phase_scaling


def test_radians_as_scaled_integers(scan_files, read, phase_error):
    truth = scan_files.phase_rad[0]
    acq = read(np.rint(truth / np.pi * 32767).astype(np.int16), slope=np.pi / 32767)
    assert phase_error(acq.scan.phase_rad[0], truth) < 1e-4


def test_odd_header_slope_is_set_aside_with_a_warning(scan_files, read, phase_error):
    truth = scan_files.phase_rad[0].astype(np.float32)
    truth.flat[:2] = -np.pi, np.pi
    acq = read(truth, slope=0.00116959)
    assert phase_error(acq.scan.phase_rad[0], truth) < 1e-6
    assert any("0.00116959" in w for w in acq.warnings)


AMBIGUOUS = {
    "radians that fill half a turn": lambda p: (0.5 * p).astype(np.float32),
    "integers that fill half of 0..4095": lambda p: stored(0.5 * p, 4096, 0),
    "0..255": lambda p: stored(p, 256, 0),
    "degrees": lambda p: np.degrees(p).astype(np.float32),
    "beyond a turn": lambda p: (1.5 * p).astype(np.float32),
    "unwrapped": lambda p: (7 * p).astype(np.float32),
    "0..1": lambda p: ((p + np.pi) / (2 * np.pi)).astype(np.float32),
    "16 bits": lambda p: np.rint(p / np.pi * 32767).astype(np.int16),
    "-pi to pi as integers": lambda p: np.rint(p).astype(np.int16),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_is_refused(scan_files, read, name):
    with pytest.raises(MetadataError, match=r"p.nii: the scale of the phase is ambiguous: values from .*--phase-scale"):
        read(AMBIGUOUS[name](scan_files.phase_rad[0]))


def test_units_settle_a_small_range(scan_files, read, phase_error):
    truth = 0.3 * scan_files.phase_rad[0]
    assert phase_error(read(truth.astype(np.float32), {"Units": "rad"}).scan.phase_rad[0], truth) < 1e-6
    with pytest.raises(MetadataError, match="says Units rad but"):
        read(stored(truth, 4096, 0), {"Units": "rad"})


def test_header_of_a_vendor_settles_a_small_range(scan_files, read, phase_error):
    truth = 0.3 * scan_files.phase_rad[0]
    acq = read(stored(truth, 4096, 0), slope=2, intercept=-4096)
    assert phase_error(acq.scan.phase_rad[0], truth) < 0.002


def test_scale_as_given(scan_files, read, phase_error):
    truth = 0.5 * scan_files.phase_rad[0]
    slope = 2 * np.pi / 4096
    integers = stored(truth, 4096, 0)
    for scale in ("siemens", f"{slope},{-np.pi}"):
        assert phase_error(read(integers, phase_scale=scale).scan.phase_rad[0], truth) < 0.002
    for scale in ("pm4096", "±4096"):
        acq = read(2 * integers - 4096, phase_scale=scale)
        assert phase_error(acq.scan.phase_rad[0], truth) < 0.002
    assert phase_error(read(truth * 1000, phase_scale="mrad").scan.phase_rad[0], truth) < 1e-5
    full = scan_files.phase_rad[0].copy()
    full.flat[:2] = -np.pi, np.pi
    acq = read(full * 17 + 40, phase_scale="minmax")
    assert phase_error(acq.scan.phase_rad[0], full) < 1e-5
    assert "as given" in acq.phase_scaling


def test_unwrapped_radians_are_wrapped_when_asked(scan_files, read, phase_error):
    truth = 7 * scan_files.phase_rad[0]
    acq = read(truth.astype(np.float32), phase_scale="rad")
    assert phase_error(acq.scan.phase_rad[0], truth) < 1e-5
    assert np.abs(acq.scan.phase_rad).max() <= np.float32(np.pi)
    assert any("wrapped" in w for w in acq.warnings)


@pytest.mark.parametrize("scale", ["degrees", "1,2,3", "nan,0", "0,1", ""])
def test_unknown_scale(scan_files, read, scale):
    with pytest.raises(UsageError, match="phase scale"):
        read(scan_files.siemens(0), phase_scale=scale)


def test_echoes_on_different_scales_are_refused(scan_files):
    magnitude = [scan_files.image(f"m_e{e}.nii", scan_files.magnitude[e]) for e in (0, 1)]
    phase = [
        scan_files.image("p_e0.nii", scan_files.siemens(0)),
        scan_files.image("p_e1.nii", stored(scan_files.phase_rad[1], 4096, 0), slope=2, intercept=-4096),
    ]
    with pytest.raises(MetadataError, match="different scales"):
        read_nifti(magnitude, phase, echo_times_s=(0.01, 0.02), b0_tesla=3)
