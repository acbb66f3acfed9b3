"""Finding scans in a dataset: grouping, inheritance, what is missing, what is no input."""

import json

import numpy as np
import pytest

from qsm_runtime.errors import InputError
from qsm_runtime.io import find_acquisitions


def test_dataset_subject_session_and_anat_folder_find_the_same(scan_files):
    for ses in ("1", "2"):
        scan_files.per_echo(
            f"sub-7/ses-{ses}/anat/sub-7_ses-{ses}_acq-fast_run-1_echo-{{e}}_part-{{part}}_MEGRE.nii.gz"
        )
    scan_files.per_echo("sub-8/anat/sub-8_echo-{e}_part-{part}_MEGRE.nii")
    root = scan_files.folder
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    assert [f.name for f in find_acquisitions(root)] == [
        "sub-7_ses-1_acq-fast_run-1",
        "sub-7_ses-2_acq-fast_run-1",
        "sub-8",
    ]
    for folder, count in (("sub-7", 2), ("sub-7/ses-2", 1), ("sub-7/ses-2/anat", 1), ("sub-8", 1)):
        found = find_acquisitions(root / folder)
        assert len(found) == count
        assert not any(f.missing for f in found)
    last = find_acquisitions(root / "sub-7/ses-2/anat")[0]
    assert last.entities == {"sub": "7", "ses": "2", "acq": "fast", "run": "1"}
    acq = last.read()
    assert acq.folder == "sub-7/ses-2/anat"
    assert acq.dataset_root == root
    assert acq.sources[0] == f"bids:raw:sub-7/ses-2/anat/{acq.source_paths[0].name}"
    np.testing.assert_array_equal(acq.scan.magnitude, scan_files.magnitude.astype(np.float32))


def test_eleven_echoes_sort_by_number(scan_files):
    for e in range(1, 12):
        meta = {"EchoTime": 0.002 * e, "MagneticFieldStrength": 3}
        scan_files.image(f"sub-1/anat/sub-1_echo-{e}_part-mag_MEGRE.nii", scan_files.magnitude[0] + e, meta)
        scan_files.image(f"sub-1/anat/sub-1_echo-{e}_part-phase_MEGRE.nii", scan_files.siemens(0), meta)
    (found,) = find_acquisitions(scan_files.folder)
    assert [p.name.split("_")[1] for p in found.files["mag"]] == [f"echo-{e}" for e in range(1, 12)]
    np.testing.assert_array_equal(
        found.read().scan.magnitude[:, 0, 0, 0], (scan_files.magnitude[0, 0, 0, 0] + np.arange(1, 12)).astype("f4")
    )


def test_sidecars_are_inherited(scan_files):
    root = scan_files.folder
    paths = scan_files.per_echo()
    for path in paths["mag"] + paths["phase"]:
        path.with_name(path.name.replace(".nii.gz", ".json")).unlink()
    (root / "dataset_description.json").write_text("{}")
    (root / "MEGRE.json").write_text(json.dumps({"MagneticFieldStrength": 1.5, "Manufacturer": "GE"}))
    (root / "T1w.json").write_text(json.dumps({"MagneticFieldStrength": 7}))
    (root / "sub-1" / "sub-1_MEGRE.json").write_text(json.dumps({"MagneticFieldStrength": 3}))
    for e, time_s in enumerate(scan_files.echo_times_s):
        (root / f"echo-{e + 1}_MEGRE.json").write_text(json.dumps({"EchoTime": time_s}))
    acq = find_acquisitions(root)[0].read()
    assert acq.scan.b0_tesla == 3
    assert acq.manufacturer == "GE"
    assert acq.scan.echo_times_s == scan_files.echo_times_s


def test_echoes_in_one_file_with_their_times_in_a_list(scan_files):
    meta = {"EchoTime": list(scan_files.echo_times_s), "MagneticFieldStrength": 3}
    phase = np.stack([scan_files.siemens(e) for e in range(3)], -1)
    scan_files.image("sub-1/anat/sub-1_part-phase_MEGRE.nii.gz", phase, meta)
    scan_files.image("sub-1/anat/sub-1_MEGRE.nii.gz", np.moveaxis(scan_files.magnitude, 0, -1), meta)  # no part: mag
    acq = find_acquisitions(scan_files.folder)[0].read()
    assert acq.scan.echo_times_s == scan_files.echo_times_s
    np.testing.assert_array_equal(acq.scan.magnitude, scan_files.magnitude.astype(np.float32))


def test_missing_parts_are_named(scan_files):
    paths = scan_files.per_echo()
    paths["phase"][1].unlink()
    (found,) = find_acquisitions(scan_files.folder)
    assert found.missing == ("sub-1_echo-2_part-mag_MEGRE.nii.gz has no part-phase",)
    with pytest.raises(InputError, match=r"sub-1 is incomplete: sub-1_echo-2_part-mag_MEGRE.nii.gz has no part-phase"):
        found.read()
    for path in paths["phase"]:
        path.unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"sub-1_echo-1_part-mag_MEGRE.nii.gz has no phase"):
        find_acquisitions(scan_files.folder)


def test_same_echo_as_nii_and_nii_gz(scan_files):
    paths = scan_files.per_echo()
    twin = paths["mag"][0].with_name(paths["mag"][0].name.removesuffix(".gz"))
    twin.write_bytes(b"")
    (found,) = find_acquisitions(scan_files.folder)
    with pytest.raises(InputError, match="claim one echo"):
        found.read()


def test_derivatives_and_other_suffixes_are_no_input(scan_files):
    scan_files.per_echo("derivatives/x/sub-1/anat/sub-1_echo-{e}_part-{part}_MEGRE.nii")
    scan_files.per_echo("sub-1/anat/sub-1_echo-{e}_part-{part}_T1w.nii")
    with pytest.raises(InputError, match="no BIDS dataset here"):
        find_acquisitions(scan_files.folder)
    (scan_files.folder / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match="part-phase_MEGRE"):
        find_acquisitions(scan_files.folder)
    with pytest.raises(InputError, match="no such folder"):
        find_acquisitions(scan_files.folder / "absent")


def test_real_and_imaginary_parts(scan_files, phase_error):
    for e in range(3):
        signal = scan_files.magnitude[e] * np.exp(1j * scan_files.phase_rad[e])
        meta = {"EchoTime": scan_files.echo_times_s[e], "MagneticFieldStrength": 3}
        for part, data in (("real", signal.real), ("imag", signal.imag)):
            scan_files.image(f"sub-1/anat/sub-1_echo-{e + 1}_part-{part}_MEGRE.nii", data.astype("f4"), meta)
    acq = find_acquisitions(scan_files.folder)[0].read()
    assert phase_error(acq.scan.phase_rad, scan_files.phase_rad) < 1e-5


def converted(scan_files, series, ending, image_type, echoes=(0, 1)):
    for e in echoes:
        meta = {"EchoTime": scan_files.echo_times_s[e], "MagneticFieldStrength": 3, "ImageType": image_type}
        data = scan_files.siemens(e) if ending or "P" in image_type else scan_files.magnitude[e].astype(np.int16)
        scan_files.image(f"{series}_e{e + 1}{ending}.nii.gz", data, meta)


def test_folder_of_dcm2niix(scan_files):
    converted(scan_files, "5_gre", "", ["ORIGINAL", "PRIMARY", "M", "ND"])
    converted(scan_files, "6_gre", "_ph", ["ORIGINAL", "PRIMARY", "P", "ND"])
    (found,) = find_acquisitions(scan_files.folder)
    assert found.name == "6_gre"
    np.testing.assert_array_equal(found.read().scan.magnitude, scan_files.magnitude[:2].astype(np.float32))
    converted(scan_files, "7_gre", "", ["ORIGINAL", "PRIMARY", "M", "ND"])  # whose phase is 6?
    (found,) = find_acquisitions(scan_files.folder)
    with pytest.raises(InputError, match=r"6_gre_e1_ph.nii.gz has no magnitude of its name"):
        found.read()
    converted(scan_files, "6_gre", "", ["ORIGINAL", "PRIMARY", "MIXED"])
    (found,) = find_acquisitions(scan_files.folder)
    assert [p.name for p in found.files["mag"]] == ["6_gre_e1.nii.gz", "6_gre_e2.nii.gz"]
    assert found.read().scan.echo_times_s == scan_files.echo_times_s[:2]


def test_parts_by_image_type_alone(scan_files):
    converted(scan_files, "a", "", ["ORIGINAL", "M"])
    converted(scan_files, "b", "", ["ORIGINAL", "P"])
    converted(scan_files, "c", "", ["ORIGINAL", "B0 MAP", "B0"], echoes=(0,))
    (found,) = find_acquisitions(scan_files.folder)
    assert {part: files[0].name for part, files in found.files.items()} == {
        "mag": "a_e1.nii.gz",
        "phase": "b_e1.nii.gz",
    }


def test_scans_that_differ_in_suffix_alone_get_names_of_their_own(scan_files):
    for suffix in ("MEGRE", "T2starw"):
        scan_files.per_echo(f"sub-1/anat/sub-1_acq-x_run-2_echo-{{e}}_part-{{part}}_{suffix}.nii")
    names = [f.name for f in find_acquisitions(scan_files.folder)]
    assert names == ["sub-1_acq-xMEGRE_run-2", "sub-1_acq-xT2starw_run-2"]
