"""Each vendor's way to store echoes, parts and phase. GE is synthesised: no real sample was at hand."""

import gzip

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from qsm_runtime.errors import MetadataError
from qsm_runtime.io.dicom import assemble, find_dicom

CASES = [
    ("siemens", "classic", "siemens: 0..4095", 1),
    ("siemens-xa", "classic", "pm4096 by the header", 1),
    ("siemens-xa", "enhanced", "pm4096 by the header", 1),
    ("philips", "classic", "mrad by the header", 1),
    ("philips", "enhanced", "mrad by the header", 1),
]


@pytest.mark.parametrize(("vendor", "style", "said", "sign"), CASES)
def test_vendor(kit, vendor, style, said, sign):
    protocol = kit.Protocol(vendor=vendor, orientation=kit.oblique())
    (found,) = assemble(getattr(kit, style)(protocol))
    assert found.missing == ()
    acq = found.read(threads=1)
    assert said in acq.phase_scaling
    assert acq.phase_sign == sign
    assert acq.scan.b0_tesla == pytest.approx(123.25 / 42.577478518)
    assert acq.b0_source == "ImagingFrequency"
    scale = {"philips": {"classic": 1 / 0.5, "enhanced": 1.25}}.get(vendor, {}).get(style, 1.0)
    kit.check(acq, protocol, magnitude_scale=scale)


@pytest.mark.parametrize("acquisition", ["2D", "3D"])
@pytest.mark.parametrize("orientation", ["AXIAL", "SAGITTAL", "CORONAL"])
@pytest.mark.parametrize("parts", [("real", "imaginary"), ("magnitude", "phase")])
def test_ge_alternating_slices_and_sign(kit, parts, orientation, acquisition):
    """Parts by (0043,102F), every second slice negated, phase falling with the field."""
    protocol = kit.Protocol(vendor="ge", orientation=getattr(kit, orientation), acquisition=acquisition)
    (found,) = assemble(kit.classic(protocol, parts))
    acq = found.read(threads=1)
    assert acq.phase_sign == -1
    assert any("slice to slice" in text for text in acq.warnings)
    turn = np.exp(1j * acq.scan.phase_rad)
    reference = acq.dicom.planes(turn[0])[0]
    _, _, place = next(iter(protocol.planes()))
    offset = np.angle((reference * np.exp(-1j * kit.phase_at(place, 0))).sum())
    assert min(abs(offset), np.pi - abs(offset)) < 0.01  # which half of the slices is negated is a constant
    acq.scan.phase_rad[:] = np.angle(turn * np.exp(-1j * offset))
    kit.check(acq, protocol, phase_tolerance_rad=0.01)


def test_ge_four_parts_use_magnitude_and_phase(kit):
    protocol = kit.Protocol(vendor="ge")
    found = assemble(kit.classic(protocol, ("magnitude", "phase", "real", "imaginary")))
    assert [sorted(one.stacks) for one in found] == [["magnitude", "phase"]]


def test_ge_phase_of_unknown_unit_is_refused(kit):
    datasets = kit.classic(kit.Protocol(vendor="ge"))
    for ds in datasets:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") // 10).tobytes()
    with pytest.raises(MetadataError, match="ambiguous"):
        assemble(datasets)[0].read(threads=1)
    acq = assemble(datasets)[0].read(threads=1, phase_scale="0.01,0")
    assert acq.scan.phase_rad.max() > 3


def test_echo_times_alone_tell_echoes_apart(kit):
    """Siemens XA may leave EchoNumber out, and echoes may share InstanceNumber."""
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    for ds in datasets:
        del ds.EchoNumbers
        ds.InstanceNumber = 1
    kit.check(assemble(datasets)[0].read(threads=1), protocol)


def test_echo_times_given_by_hand(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        del ds.EchoTime
    with pytest.raises(MetadataError, match="--echo-times-ms"):
        assemble(datasets)[0].read(threads=1)
    acq = assemble(datasets)[0].read(threads=1, echo_times_s=(0.004, 0.009, 0.014))
    kit.check(acq, kit.Protocol())


def test_field_strength(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        del ds.ImagingFrequency
    assert assemble(datasets)[0].read(threads=1).b0_source == "MagneticFieldStrength"
    for ds in datasets:
        del ds.MagneticFieldStrength
    with pytest.raises(MetadataError, match="--b0-tesla"):
        assemble(datasets)[0].read(threads=1)
    assert assemble(datasets)[0].read(threads=1, b0_tesla=7.0).scan.b0_tesla == 7.0


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_transfer_syntaxes(kit, tmp_path, syntax):
    protocol = kit.Protocol(echo_times_ms=(5.0,), shape=(6, 5, 3))
    for i, ds in enumerate(kit.classic(protocol)):
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(tmp_path / f"{i}", enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian,
                   little_endian=syntax != ExplicitVRBigEndian)  # fmt: skip
    kit.check(find_dicom(tmp_path)[0].read(threads=1), protocol)


@pytest.mark.parametrize("style", ["classic", "enhanced"])
def test_rle_compressed(kit, tmp_path, style):
    protocol = kit.Protocol(vendor="siemens-xa", echo_times_ms=(5.0,), shape=(16, 16, 3))
    for i, ds in enumerate(getattr(kit, style)(protocol)):
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
    kit.check(find_dicom(tmp_path)[0].read(threads=2), protocol)


@pytest.mark.parametrize("style", ["classic", "enhanced"])
def test_gzipped_files(kit, tmp_path, style):
    protocol = kit.Protocol(vendor="siemens-xa", echo_times_ms=(5.0, 9.0), shape=(6, 5, 3))
    kit.save(getattr(kit, style)(protocol), tmp_path / "plain")
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in (tmp_path / "plain").iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    kit.check(find_dicom(packed)[0].read(threads=2), protocol)


def test_overlay_bits_are_dropped_and_signs_extended(kit):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    for ds in datasets:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0x8000).tobytes()
    kit.check(assemble(datasets)[0].read(threads=1), protocol)
    protocol = kit.Protocol(vendor="ge")
    datasets = kit.classic(protocol, ("real", "imaginary"))
    for ds in datasets:
        ds.BitsStored, ds.HighBit = 14, 13
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") & 0x3FFF).tobytes()
    plain = assemble(kit.classic(protocol, ("real", "imaginary")))[0].read(threads=1)
    packed = assemble(datasets)[0].read(threads=1)
    np.testing.assert_array_equal(packed.scan.phase_rad, plain.scan.phase_rad)
    np.testing.assert_array_equal(packed.scan.magnitude, plain.scan.magnitude)


def test_philips_planes_scaled_each_by_itself(kit):
    """Acquired values are what compares: displayed / (slope * scale slope)."""
    protocol = kit.Protocol(vendor="philips")
    datasets = kit.classic(protocol)
    for i, ds in enumerate(d for d in datasets if d.ImageType[2] == "M"):
        precise = 0.5 * (1 + i % 3)
        ds[0x2005100E].value = precise
        samples = np.frombuffer(ds.PixelData, "<u2") * (1 + i % 3)
        ds.BitsStored, ds.HighBit = 16, 15
        ds.PixelData = samples.astype("<u2").tobytes()
    for ds in datasets:
        ds.BitsStored, ds.HighBit = 16, 15
    kit.check(assemble(datasets)[0].read(threads=1), protocol, magnitude_scale=2.0)
