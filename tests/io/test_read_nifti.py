"""Reading: pairing, order, metadata and every refusal, against arrays written with nibabel."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from qsm_runtime.errors import InputError, MetadataError, ShapeError, UsageError
from qsm_runtime.io import read_nifti
from qsm_runtime.units import GAMMA_HZ_PER_T

STEP_RAD = 2 * np.pi / 4096


def test_files_per_echo(scan_files, phase_error):
    paths = scan_files.per_echo()
    acq = read_nifti(paths["mag"], paths["phase"])
    assert acq.scan.echo_times_s == scan_files.echo_times_s
    assert acq.scan.b0_tesla == 3
    assert acq.scan.phase_rad.dtype == np.float32
    assert acq.scan.phase_rad.flags.c_contiguous
    np.testing.assert_array_equal(acq.scan.magnitude, scan_files.magnitude.astype(np.float32))
    assert phase_error(acq.scan.phase_rad, scan_files.phase_rad) < 0.51 * STEP_RAD
    assert acq.scan.grid.voxel_mm == pytest.approx((0.8, 0.9, 1.2))
    assert acq.scan.grid.b0_dir == pytest.approx((0, 0, 1))
    np.testing.assert_allclose(acq.affine, scan_files.affine)
    assert acq.name == "sub-1"
    assert acq.folder == "sub-1/anat"
    assert "siemens" in acq.phase_scaling


def test_order_given_does_not_matter(scan_files):
    paths = scan_files.per_echo()
    straight = read_nifti(paths["mag"], paths["phase"])
    mixed = read_nifti(paths["mag"][::-1], [paths["phase"][i] for i in (1, 2, 0)])
    np.testing.assert_array_equal(mixed.scan.phase_rad, straight.scan.phase_rad)
    np.testing.assert_array_equal(mixed.scan.magnitude, straight.scan.magnitude)
    assert mixed.scan.echo_times_s == straight.scan.echo_times_s


def test_four_dimensional_file_equals_files_per_echo(scan_files):
    paths = scan_files.per_echo()
    straight = read_nifti(paths["mag"], paths["phase"])
    magnitude = scan_files.image("m.nii", np.moveaxis(scan_files.magnitude, 0, -1).astype(np.float32))
    phase = scan_files.image("p.nii", np.stack([scan_files.siemens(e) for e in range(3)], -1))
    acq = read_nifti([magnitude], [phase], echo_times_s=scan_files.echo_times_s, b0_tesla=3.0)
    np.testing.assert_array_equal(acq.scan.phase_rad, straight.scan.phase_rad)
    np.testing.assert_array_equal(acq.scan.magnitude, straight.scan.magnitude)


def test_four_dimensional_phase_with_magnitude_per_echo(scan_files):
    paths = scan_files.per_echo()
    phase = scan_files.image("p.nii.gz", np.stack([scan_files.siemens(e) for e in range(3)], -1))
    acq = read_nifti(paths["mag"][::-1], [phase])
    np.testing.assert_array_equal(acq.scan.magnitude, scan_files.magnitude.astype(np.float32))
    assert acq.scan.echo_times_s == scan_files.echo_times_s


def test_big_endian_float64_with_slope(scan_files, phase_error):
    phase = scan_files.image("p.nii", scan_files.phase_rad[0].astype(">f8"), {"Units": "rad"})
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0].astype(">i2"), slope=0.5, intercept=3)
    acq = read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=7)
    np.testing.assert_array_equal(acq.scan.magnitude[0], (scan_files.magnitude[0] * 0.5 + 3).astype(np.float32))
    assert phase_error(acq.scan.phase_rad[0], scan_files.phase_rad[0]) < 1e-6


def test_number_in_name_orders_ten_echoes(scan_files):
    data = scan_files.siemens(0)
    phase = [scan_files.image(f"phase{i}.nii", np.roll(data, i)) for i in range(1, 11)]
    magnitude = [scan_files.image(f"mag{i}.nii", scan_files.magnitude[0].astype(np.int16) + i) for i in range(1, 11)]
    times = tuple(0.002 * i for i in range(1, 11))
    acq = read_nifti(sorted(magnitude), sorted(phase), echo_times_s=times, b0_tesla=3)  # sorted: mag1, mag10, mag2
    np.testing.assert_array_equal(acq.scan.magnitude[:, 0, 0, 0], scan_files.magnitude[0, 0, 0, 0] + np.arange(1, 11))


def test_dcm2niix_names(scan_files):
    paths = scan_files.per_echo("series_e{e}{part}.nii", Manufacturer="Siemens")
    renamed = {"mag": [], "phase": []}
    for part, ending in (("mag", ""), ("phase", "_ph")):
        for e, path in enumerate(paths[part]):
            for suffix in (".nii", ".json"):
                path.with_suffix(suffix).rename(path.with_name(f"series_e{e + 1}{ending}{suffix}"))
            renamed[part].append(path.with_name(f"series_e{e + 1}{ending}.nii"))
    acq = read_nifti(renamed["mag"], renamed["phase"])
    assert acq.name == "series"
    assert acq.folder == ""
    assert acq.phase_sign == 1
    with pytest.raises(ShapeError, match="2 phase echoes"):
        read_nifti(renamed["mag"], renamed["phase"][:2])
    with pytest.raises(MetadataError, match="pair the files"):
        read_nifti(renamed["mag"][:2], renamed["phase"][1:])


def test_same_echo_twice_is_refused(scan_files):
    paths = scan_files.per_echo("a_e{e}_{part}.nii")
    copy = paths["phase"][0].with_name("b_e1_phase.nii")
    copy.write_bytes(paths["phase"][0].read_bytes())
    copy.with_suffix(".json").write_bytes(paths["phase"][0].with_suffix(".json").read_bytes())
    with pytest.raises(MetadataError, match="same echo time"):
        read_nifti(paths["mag"][:2], [paths["phase"][0], copy])
    with pytest.raises(UsageError, match="twice"):
        read_nifti(paths["mag"][:2], [paths["phase"][0]] * 2)


def test_unorderable_part_beside_reordered_one_is_refused(scan_files):
    paths = scan_files.per_echo("a_e{e}_{part}.nii")
    loose = [scan_files.image(name, scan_files.siemens(i)) for i, name in enumerate(("x.nii", "yy.nii", "zzz.nii"))]
    with pytest.raises(MetadataError, match="out of echo order"):
        read_nifti(paths["mag"][::-1], loose)


def test_echo_number_against_echo_time_is_refused(scan_files):
    paths = scan_files.per_echo("a_e{e}_{part}.nii")
    for part in ("mag", "phase"):
        a, b = (paths[part][i].with_suffix(".json") for i in (0, 1))
        first, second = a.read_text(), b.read_text()
        a.write_text(second)
        b.write_text(first)
    with pytest.raises(MetadataError, match="disagree on the order"):
        read_nifti(paths["mag"], paths["phase"])


def test_echo_times_missing_unequal_or_in_ms(scan_files):
    paths = scan_files.per_echo()
    sidecars = [p.with_name(p.name.split(".nii")[0] + ".json") for p in paths["phase"] + paths["mag"]]
    with pytest.raises(MetadataError, match="3 echoes but 2 echo times"):
        read_nifti(paths["mag"], paths["phase"], echo_times_s=(0.004, 0.01))
    with pytest.raises(MetadataError, match="in ms by mistake"):
        read_nifti(paths["mag"], paths["phase"], echo_times_s=(4, 10, 17))
    meta = json.loads(sidecars[0].read_text())
    sidecars[0].write_text(json.dumps(meta | {"EchoTime": 0.0045}))
    with pytest.raises(MetadataError, match=r"echo time 0.0045 s, but magnitude .* 0.004 s"):
        read_nifti(paths["mag"], paths["phase"])
    for sidecar in sidecars:
        sidecar.write_text(json.dumps({"MagneticFieldStrength": 3}))
    with pytest.raises(MetadataError, match=r"no echo time for sub-1_echo-1.*--echo-times"):
        read_nifti(paths["mag"], paths["phase"])
    acq = read_nifti(paths["mag"], paths["phase"], echo_times_s=(0.004, 0.01, 0.017))
    assert acq.scan.echo_times_s == (0.004, 0.01, 0.017)


def test_flags_override_sidecars_with_a_warning(scan_files):
    paths = scan_files.per_echo()
    acq = read_nifti(paths["mag"], paths["phase"], echo_times_s=(0.005, 0.01, 0.017), b0_tesla=7)
    assert acq.scan.echo_times_s[0] == 0.005
    assert acq.scan.b0_tesla == 7
    assert any("0.005 s of echo 1 overrides 0.004" in w for w in acq.warnings)
    assert any("7 T" in w and "3 T" in w for w in acq.warnings)
    same = read_nifti(paths["mag"], paths["phase"], echo_times_s=scan_files.echo_times_s, b0_tesla=3)
    assert not any("overrides" in w for w in same.warnings)


def test_field_strength_from_imaging_frequency(scan_files):
    paths = scan_files.per_echo(ImagingFrequency=123.25)
    acq = read_nifti(paths["mag"], paths["phase"])
    assert acq.scan.b0_tesla == pytest.approx(123.25e6 / GAMMA_HZ_PER_T)
    paths = scan_files.per_echo(ImagingFrequency=51.7)  # phosphorus at 3 T
    with pytest.raises(MetadataError, match=r"ImagingFrequency says 1.214 T"):
        read_nifti(paths["mag"], paths["phase"])
    paths = scan_files.per_echo(MagneticFieldStrength=None)
    with pytest.raises(MetadataError, match="give --b0-tesla"):
        read_nifti(paths["mag"], paths["phase"])
    with pytest.raises(MetadataError, match="--imaging-frequency-mhz says"):
        read_nifti(paths["mag"], paths["phase"], b0_tesla=3, imaging_frequency_mhz=63.9)


def test_sign_by_manufacturer_and_flag(scan_files, phase_error):
    truth = scan_files.phase_rad
    for manufacturer, sign in (("GE MEDICAL SYSTEMS", -1), ("GE", -1), ("SIEMENS", 1), ("Philips", 1), ("Acme", 1)):
        paths = scan_files.per_echo(Manufacturer=manufacturer)
        acq = read_nifti(paths["mag"], paths["phase"])
        assert acq.phase_sign == sign
        assert phase_error(acq.scan.phase_rad, sign * truth) < 0.51 * STEP_RAD
        assert any("Acme" in w for w in acq.warnings) == (manufacturer == "Acme")
        given = read_nifti(paths["mag"], paths["phase"], phase_sign="-")
        assert phase_error(given.scan.phase_rad, -truth) < 0.51 * STEP_RAD
    with pytest.raises(UsageError, match="phase sign"):
        read_nifti(paths["mag"], paths["phase"], phase_sign="x")


@pytest.mark.parametrize(("manufacturer", "sign"), [("GE", -1), ("Siemens", 1)])
def test_real_imaginary_and_complex(scan_files, phase_error, manufacturer, sign):
    signal = (scan_files.magnitude * np.exp(1j * scan_files.phase_rad)).astype(np.complex64)
    meta = {"Manufacturer": manufacturer}
    as_4d = np.moveaxis(signal, 0, -1)
    real = scan_files.image("re.nii", as_4d.real.copy(), meta)
    imaginary = scan_files.image("im.nii", as_4d.imag.copy(), meta)
    both = scan_files.image("c.nii.gz", as_4d, meta)
    flags = {"echo_times_s": scan_files.echo_times_s, "b0_tesla": 3}
    for acq in (read_nifti(real=[real], imaginary=[imaginary], **flags), read_nifti(complex_=[both], **flags)):
        np.testing.assert_allclose(acq.scan.magnitude, scan_files.magnitude, rtol=1e-6)
        assert phase_error(acq.scan.phase_rad, sign * scan_files.phase_rad) < 1e-5
    with pytest.raises(UsageError, match="no meaning"):
        read_nifti(complex_=[both], phase_scale="rad", **flags)
    unsigned = scan_files.image("abs.nii", np.abs(as_4d.real), meta)
    with pytest.raises(MetadataError, match="offset was lost"):
        read_nifti(real=[unsigned], imaginary=[imaginary], **flags)


def test_slices_of_alternating_sign(scan_files, phase_error):
    """GE's real and imaginary images change sign from slice to slice; a smooth phase must come out smooth."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in scan_files.magnitude.shape[1:]), indexing="ij")
    truth = 2 * x + y - 1.5 * z
    chop = np.where(np.arange(z.shape[2]) % 2, -1, 1)
    flags = {"echo_times_s": [0.01], "b0_tesla": 3, "phase_sign": "-"}
    for factor, warned in ((chop, True), (np.ones_like(chop), False)):
        signal = (100 * np.exp(1j * truth) * factor).astype(np.complex64)
        acq = read_nifti(complex_=[scan_files.image("c.nii", signal)], **flags)
        assert phase_error(acq.scan.phase_rad[0], -truth) < 1e-5
        assert any("slice to slice" in w for w in acq.warnings) == warned


def test_phase_difference(scan_files):
    times = {"EchoTime1": 0.01, "EchoTime2": 0.01246, "EchoTime": 0.01246, "MagneticFieldStrength": 3}
    magnitude = [
        scan_files.image(f"m_e{e + 1}.nii", scan_files.magnitude[e].astype(np.int16), {"EchoTime": t})
        for e, t in enumerate((0.01, 0.01246))
    ]
    phase = scan_files.image("p_e2_ph.nii", scan_files.siemens(0), times)
    acq = read_nifti(magnitude, [phase])
    assert acq.scan.echo_times_s == pytest.approx((0.00246,))
    assert acq.echo_difference
    m1, m2 = scan_files.magnitude[:2]
    np.testing.assert_allclose(acq.scan.magnitude[0], 1 / np.sqrt(1 / m1**2 + 1 / m2**2), rtol=1e-5)
    plain = scan_files.image("q_e2_ph.nii", scan_files.siemens(0), {"EchoTime": 0.01246, "MagneticFieldStrength": 3})
    with pytest.raises(ShapeError, match="1 phase echoes"):
        read_nifti(magnitude, [plain])
    named = scan_files.image("x_phasediff.nii", scan_files.siemens(0), {"MagneticFieldStrength": 3})
    assert read_nifti(magnitude, [named]).scan.echo_times_s == pytest.approx((0.00246,))
    with pytest.raises(MetadataError, match="phase difference"):
        read_nifti(magnitude[:1], [named])


def test_phase_alone_needs_a_mask(scan_files):
    paths = scan_files.per_echo()
    with pytest.raises(UsageError, match="needs a mask"):
        read_nifti((), paths["phase"])
    mask = scan_files.image("mask.nii.gz", (scan_files.magnitude[0] > 500).astype(np.uint8))
    acq = read_nifti((), paths["phase"], mask=mask)
    assert (acq.scan.magnitude == 1).all()
    np.testing.assert_array_equal(acq.mask, scan_files.magnitude[0] > 500)
    with pytest.raises(UsageError, match="real was given"):
        read_nifti(real=paths["mag"])
    with pytest.raises(UsageError, match="nothing was given"):
        read_nifti()


def test_masks_that_do_not_fit(scan_files):
    paths = scan_files.per_echo()
    inside = (scan_files.magnitude[0] > 500).astype(np.float32)

    def read(data, **header):
        return read_nifti(paths["mag"], paths["phase"], mask=scan_files.image("mask.nii", data, **header))

    np.testing.assert_array_equal(read(255 * inside).mask, inside > 0)
    shifted = scan_files.affine.copy()
    shifted[0, 3] += 1
    with pytest.raises(InputError, match="voxels off"):
        read(inside, affine=shifted)
    with pytest.raises(ShapeError, match="shape"):
        read(inside[:-1])
    with pytest.raises(InputError, match="empty"):
        read(0 * inside)
    with pytest.raises(InputError, match="not finite"):
        read(np.where(inside > 0, np.float32(np.nan), inside))
    with pytest.raises(InputError, match="label image"):
        read(inside + (scan_files.magnitude[0] > 1000))
    with pytest.raises(InputError, match="2 volumes"):
        read(np.stack([inside, inside], -1))
    cut = read(inside * np.linspace(0, 1, 8, dtype=np.float32))
    np.testing.assert_array_equal(cut.mask, inside * np.linspace(0, 1, 8, dtype=np.float32) >= 0.5)
    assert any("cut at 0.5" in w for w in cut.warnings)


def test_images_that_do_not_fit(scan_files):
    paths = scan_files.per_echo()
    small = scan_files.image("sub-1/anat/small_e1.nii", scan_files.siemens(0)[:, :, :-1])
    with pytest.raises(ShapeError, match=r"small_e1.nii has \(12, 10, 7\)"):
        read_nifti(paths["mag"], [small, *paths["phase"][1:]])
    moved = scan_files.affine.copy()
    moved[2, 3] += 0.2
    placed = scan_files.image("sub-1/anat/moved_e1.nii", scan_files.siemens(0), affine=moved)
    with pytest.raises(InputError, match="affines differ"):
        read_nifti(paths["mag"], [placed, *paths["phase"][1:]])
    flat = scan_files.image("flat.nii", scan_files.siemens(0)[:, :, 0])
    with pytest.raises(ShapeError, match="2-D image"):
        read_nifti([flat], [paths["phase"][0]])
    sheared = scan_files.affine.copy()
    sheared[0, 1] = 0.2
    phase = scan_files.image("p.nii", scan_files.siemens(0), affine=sheared, qform_code=0)
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0], affine=sheared, qform_code=0)
    with pytest.raises(InputError, match="sheared"):
        read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=3)


def test_single_slice_is_read(scan_files):
    phase = scan_files.image("p.nii", scan_files.siemens(0)[:, :, :1])
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0][:, :, :1])
    acq = read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=3)
    assert acq.scan.phase_rad.shape == (1, 12, 10, 1)


def test_constant_and_non_finite_phase(scan_files):
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0])
    flags = {"echo_times_s": [0.01], "b0_tesla": 3}
    constant = scan_files.image("c.nii", np.full(scan_files.siemens(0).shape, 7, np.int16))
    with pytest.raises(InputError, match=r"c.nii: phase is constant \(7\)"):
        read_nifti([magnitude], [constant], **flags)
    holed = scan_files.phase_rad[0].astype(np.float32)
    holed[0], holed[1, 1, 1] = np.nan, np.inf
    acq = read_nifti([magnitude], [scan_files.image("h.nii", holed)], **flags)
    assert acq.scan.n_not_finite == 81
    assert np.isfinite(acq.scan.phase_rad).all()
    nothing = scan_files.image("n.nii", np.full_like(holed, np.nan))
    with pytest.raises(InputError, match="no voxel of volume 1 is finite"):
        read_nifti([magnitude], [nothing], **flags)


def test_broken_files(scan_files):
    paths = scan_files.per_echo()
    whole = paths["phase"][0].read_bytes()

    def read(name, content):
        path = scan_files.folder / name
        path.write_bytes(content)
        return read_nifti(paths["mag"][:1], [path], echo_times_s=[0.01], b0_tesla=3)

    with pytest.raises(InputError, match="ends early"):
        read("cut.nii.gz", whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged gzip"):
        read("bad.nii.gz", whole[:200] + b"\xff" * 64 + whole[264:])
    with pytest.raises(InputError, match="not a NIfTI file"):
        read("text.nii", b"this is no image" * 100)
    with pytest.raises(InputError, match="not a NIfTI file"):
        read("empty.nii", b"")
    plain = scan_files.image("plain.nii", scan_files.siemens(0)).read_bytes()
    with pytest.raises(InputError, match="100 bytes are missing"):
        read("short.nii", plain[:-100])
    with pytest.raises(InputError, match=r"not a .nii"):
        read("image.mgz", whole)
    with pytest.raises(InputError, match="no such file"):
        read_nifti(paths["mag"][:1], [scan_files.folder / "absent.nii"], echo_times_s=[0.01], b0_tesla=3)
    paths["phase"][0].with_name("sub-1_echo-1_part-phase_MEGRE.json").write_text("{broken")
    with pytest.raises(InputError, match="not a readable JSON"):
        read_nifti(paths["mag"], paths["phase"])


def test_nifti_2_and_gzip_of_several_members(scan_files, tmp_path):
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0])
    plain = scan_files.image("p.nii", scan_files.siemens(0))
    flags = {"echo_times_s": [0.01], "b0_tesla": 3}
    expected = read_nifti([magnitude], [plain], **flags).scan
    second = tmp_path / "two.nii.gz"
    image = nib.Nifti2Image(scan_files.siemens(0), scan_files.affine)
    image.header.set_slope_inter(1, 0)
    nib.save(image, second)
    content = plain.read_bytes()
    members = tmp_path / "members.nii.gz"
    members.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + bytes(512))
    for path in (second, members):
        scan = read_nifti([magnitude], [path], **flags).scan
        np.testing.assert_array_equal(scan.phase_rad, expected.phase_rad)
        np.testing.assert_allclose(scan.grid.voxel_mm, expected.grid.voxel_mm, rtol=1e-6)


def test_complex_file_as_phase_is_refused(scan_files):
    both = scan_files.image("c.nii", np.exp(1j * scan_files.phase_rad[0]).astype(np.complex64))
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0])
    with pytest.raises(InputError, match="complex samples"):
        read_nifti([magnitude], [both], echo_times_s=[0.01], b0_tesla=3)
    with pytest.raises(InputError, match="not complex"):
        read_nifti(complex_=[magnitude], echo_times_s=[0.01], b0_tesla=3)


def test_singular_affine_is_refused(scan_files):
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0])
    phase = scan_files.image("p.nii", scan_files.siemens(0), srow_z=(0, 0, 0, 0), qform_code=0)
    with pytest.raises(InputError, match=r"p\.nii: the affine is singular"):
        read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=3)


def test_voxels_in_meters_are_refused(scan_files):
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0], xyzt_units=1)
    phase = scan_files.image("p.nii", scan_files.siemens(0), xyzt_units=1)
    with pytest.raises(MetadataError, match="voxel sizes in meter"):
        read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=3)


def test_orientation_of_b0(scan_files):
    turn = np.deg2rad(20)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    flags = {"echo_times_s": [0.01], "b0_tesla": 3}

    def read(phase_header, **options):
        phase = scan_files.image("p.nii", scan_files.siemens(0), **phase_header)
        magnitude = scan_files.image("m.nii", scan_files.magnitude[0], **phase_header)
        return read_nifti([magnitude], [phase], **flags, **options)

    oblique = read({"affine": tilted})
    assert oblique.scan.grid.b0_dir == pytest.approx((0, np.sin(turn), np.cos(turn)), abs=1e-5)
    assert read({"affine": tilted}, b0_dir=(0, 0, 2)).scan.grid.b0_dir == (0, 0, 1)
    none = {"affine": tilted, "sform_code": 0, "qform_code": 0}
    with pytest.raises(MetadataError, match="--b0-dir 0,0,1"):
        read(none)
    assert read(none, b0_dir=(0, 1, 0)).scan.grid.b0_dir == (0, 1, 0)
    with pytest.raises(UsageError, match="three numbers"):
        read(none, b0_dir=(0, 1))
    # sform in a template, qform in the scanner: B0 comes from the scanner's
    template = {"affine": tilted, "sform_code": 4, "qform_code": 1, "quatern_b": 0.0}
    acq = read(template)
    assert acq.scan.grid.b0_dir == pytest.approx((0, 0, 1))
    assert any("20.0 degrees" in w for w in acq.warnings)
    assert any("template" in w for w in read({"affine": tilted, "sform_code": 4, "qform_code": 0}).warnings)
