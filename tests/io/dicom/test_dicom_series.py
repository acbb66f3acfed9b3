"""Which series make a scan, and what is said of folders where something is wrong: each fault by its name."""

import gzip

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid

from qsm_runtime.errors import InputError
from qsm_runtime.io import find_acquisitions
from qsm_runtime.io.dicom import Arrivals, assemble, find_dicom, inspect_folder

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"


def missing(datasets):
    """What the only scan lacks."""
    (found,) = assemble(datasets)
    with pytest.raises(InputError, match="incomplete"):
        found.read(threads=1)
    return " ".join(found.missing)


def of(datasets, part, echo=None):
    word = {"magnitude": "M", "phase": "P"}[part]
    return [ds for ds in datasets if ds.ImageType[2] == word and echo in (None, ds.EchoNumbers)]


def test_the_reason_is_kept(kit):
    (found,) = assemble(kit.classic(kit.Protocol()))
    assert found.name == "series-8_gre-qsm"
    assert "series 7 magnitude for series 8 phase" in found.reason
    acq = found.read(threads=1)
    assert acq.choice == found.reason
    assert all(source.startswith("urn:oid:") for source in acq.sources)
    assert len(acq.dicom.sources) == 2 * 3 * 6


def test_magnitude_is_chosen_by_echo_times_then_nearness(kit):
    study = generate_uid()
    first = kit.classic(kit.Protocol(study=study, number=3))
    second = kit.classic(kit.Protocol(study=study, number=10))
    other = [
        ds for ds in kit.classic(kit.Protocol(study=study, number=12, echo_times_ms=(4.0,))) if ds.ImageType[2] == "M"
    ]
    found = assemble(first + second + other)
    assert [
        (f.stacks["magnitude"].first.instance.series_number, f.main.first.instance.series_number) for f in found
    ] == [
        (3, 4),
        (10, 11),
    ]
    assert "distance of series numbers" in found[0].reason


def test_studies_are_never_mixed(kit):
    one, two = kit.classic(kit.Protocol()), kit.classic(kit.Protocol())
    found = assemble(of(one, "magnitude") + of(two, "phase"))
    assert len(found) == 1
    assert "no magnitude images belong to it" in found[0].missing[0]
    assert [f.name for f in assemble(one + two)] == ["study-1_series-8_gre-qsm", "study-2_series-8_gre-qsm"]


def test_another_grid_is_no_partner(kit):
    study = generate_uid()
    one = kit.classic(kit.Protocol(study=study))
    two = kit.classic(kit.Protocol(study=study, orientation=kit.CORONAL))
    assert "another grid" in missing(of(one, "magnitude") + of(two, "phase"))


def test_shifted_planes_are_no_partner(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in of(datasets, "phase"):
        ds.ImagePositionPatient = [ds.ImagePositionPatient[0] + 5, *ds.ImagePositionPatient[1:]]
    assert "images of different planes" in missing(datasets)


def test_missing_slice(kit):
    datasets = kit.classic(kit.Protocol())
    gap = [ds for ds in of(datasets, "phase", 2) if abs(ds.ImagePositionPatient[2] + 2) < 0.1]
    assert len(gap) == 1
    rest = [ds for ds in datasets if ds is not gap[0]]
    assert "series 8 phase: echo 2 (9 ms) lacks 1 of 6 slices" in missing(rest)
    everywhere = [ds for ds in datasets if abs(ds.ImagePositionPatient[2] + 2) > 0.1]
    assert "1 of 6 slices is missing, the first after slice 2" in missing(everywhere)


def test_missing_last_slice_of_a_philips_scan(kit):
    datasets = kit.classic(kit.Protocol(vendor="philips"))
    assert "5 of 6 slices are here" in missing([ds for ds in datasets if ds.ImagePositionPatient[2] < 6.5])


def test_uneven_slices(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        if ds.ImagePositionPatient[2] > 5:
            ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + 1]
    assert "unevenly spaced" in missing(datasets)


def test_missing_echo(kit):
    datasets = kit.classic(kit.Protocol())
    assert "series 8 phase: echo 2 missing" in missing([d for d in datasets if d not in of(datasets, "phase", 2)])
    assert "echo 3 (14 ms) missing" in missing([d for d in datasets if d not in of(datasets, "phase", 3)])
    for ds in datasets:
        ds.EchoTrainLength = 3
    both = [ds for ds in datasets if ds.EchoNumbers != 3]
    assert "echo 3 missing (2 are here)" in missing(both)


def test_half_transferred_study(kit):
    datasets = kit.classic(kit.Protocol())
    assert "transfer" in missing(datasets[: len(datasets) * 3 // 4])
    assert assemble(datasets[: len(datasets) // 2]) == []


def test_duplicates(kit, tmp_path):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    kit.save(datasets, tmp_path / "a", seed=1)
    kit.save(datasets, tmp_path / "b", seed=2)
    contents = inspect_folder(tmp_path)
    assert contents.copies == len(datasets)
    kit.check(contents.scans[0].read(threads=1), protocol)
    again = kit.classic(protocol)
    for ds in again:
        twin = next(d for d in datasets if d.ImageType[2] == ds.ImageType[2])
        ds.SeriesInstanceUID, ds.SeriesNumber = twin.SeriesInstanceUID, twin.SeriesNumber
    assert "are there twice" in missing(datasets + again)


def test_arrivals_in_any_order_and_form(kit, tmp_path):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    folder = kit.save(datasets[: len(datasets) // 2], tmp_path / "spool")
    (folder / "notes").write_text("no DICOM")
    arrivals = Arrivals()
    said = [arrivals.add(path) for path in folder.iterdir()]
    assert sorted(set(said)) == ["", "no DICOM"]
    assert arrivals.scans() == []
    for ds in datasets[len(datasets) // 2 : -1]:
        assert arrivals.add(ds) == ""
    assert "lacks 1 of 6 slices" in arrivals.scans()[0].missing[0]
    arrivals.add(datasets[-1])
    arrivals.add(datasets[-1])
    kit.check(arrivals.scans()[0].read(threads=1), protocol)


def test_repetitions_become_scans(kit):
    protocol = kit.Protocol()
    first, second = kit.classic(protocol), kit.classic(protocol)
    for number, datasets in enumerate((first, second), 1):
        for ds in datasets:
            twin = next(d for d in first if d.ImageType[2] == ds.ImageType[2])
            ds.SeriesInstanceUID, ds.AcquisitionNumber = twin.SeriesInstanceUID, number
    found = assemble(second + first)
    assert [f.name for f in found] == ["series-8_run-1_gre-qsm", "series-8_run-2_gre-qsm"]
    for one in found:
        assert {stack.repetition for stack in one.stacks.values()} == {one.main.repetition}
        kit.check(one.read(threads=1), protocol)


def test_every_echo_in_a_series_of_its_own(kit):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    uids = {(part, echo): generate_uid() for part in "MP" for echo in (1, 2, 3)}
    for ds in datasets:
        part, echo = ds.ImageType[2], ds.EchoNumbers
        ds.SeriesInstanceUID, ds.SeriesNumber = uids[part, echo], 2 * echo + 1 + (part == "P")
    (found,) = assemble(datasets)
    assert "series 3, 5, 7 magnitude for series 4, 6, 8 phase" in found.reason
    kit.check(found.read(threads=1), protocol)
    for ds in datasets:  # another start is another acquisition
        ds.AcquisitionTime = f"1011{10 + ds.EchoNumbers}.5"
    assert all("echo" in " ".join(one.missing) for one in assemble(datasets)[1:])
    assert len(assemble(datasets)) == 3


def test_computed_images_and_other_objects_are_set_aside(kit, tmp_path):
    protocol = kit.Protocol()
    datasets = kit.classic(protocol)
    swi = kit.classic(kit.Protocol(study=protocol.study, number=20), ("magnitude",))
    for ds in swi:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SWI"]
    captures = kit.classic(kit.Protocol(study=protocol.study, number=21), ("magnitude",))
    for i, ds in enumerate(captures):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE if i % 2 else CT
        ds.Modality = "OT" if i % 2 else "CT"
    folder = kit.save(datasets + swi + captures, tmp_path / "all")
    (folder / "notes.txt").write_text("no DICOM" * 50)
    (folder / "empty").touch()
    contents = inspect_folder(folder)
    assert contents.aside == {"Secondary Capture Image Storage": 9, "CT Image Storage": 9}
    assert any("computed image (SWI)" in one.use for one in contents.series)
    kit.check(contents.scans[0].read(threads=1), protocol)


def test_a_study_without_phase_says_so(kit, tmp_path):
    folder = kit.save(kit.classic(kit.Protocol(), ("magnitude",)), tmp_path / "m")
    with pytest.raises(InputError, match=r"no phase .* export or transfer the phase images"):
        find_dicom(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no BIDS dataset"):
        find_acquisitions(tmp_path / "none")


def test_another_modality_alone(kit, tmp_path):
    datasets = kit.classic(kit.Protocol(), ("magnitude",))
    for ds in datasets:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CT
    with pytest.raises(InputError, match=r"no MR image .*18 x CT Image Storage"):
        find_dicom(kit.save(datasets, tmp_path / "ct"))


def test_other_nucleus_and_lossy_images_are_not_used(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        ds.ImagedNucleus = "23NA"
    assert assemble(datasets) == []
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        ds.LossyImageCompression = "01"
    assert assemble(datasets) == []


def test_compression_without_a_decoder(kit, tmp_path, monkeypatch):
    import qsm_runtime.io.dicom.pixels as pixels

    class Without:
        is_available = False

    monkeypatch.setattr(pixels, "get_decoder", lambda uid: Without)
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    said = missing(datasets)
    assert "JPEG 2000" in said
    assert "pip install" in said


@pytest.mark.parametrize("packed", [False, True])
def test_file_cut_short(kit, tmp_path, packed):
    folder = kit.save(kit.classic(kit.Protocol()), tmp_path / "cut")
    victim = sorted(folder.iterdir())[5]
    data = victim.read_bytes()
    if packed:
        victim.unlink()
        victim.with_suffix(".dcm.gz").write_bytes(gzip.compress(data)[:-40])
    else:
        victim.write_bytes(data[:-40])
    (found,) = find_dicom(folder)
    said = " ".join(found.missing)
    assert "cut short" in said
    assert "transfer it again" in said


def test_file_that_shrinks_after_it_was_found(kit, tmp_path):
    folder = kit.save(kit.classic(kit.Protocol()), tmp_path / "moving")
    (found,) = find_dicom(folder)
    victim = sorted(folder.iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-40])
    with pytest.raises(InputError, match="became shorter"):
        found.read(threads=2)
    victim.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        found.read(threads=2)


def test_datasets_short_of_samples(kit):
    datasets = kit.classic(kit.Protocol())
    datasets[-1].PixelData = datasets[-1].PixelData[:-2]
    assert "cut short" in missing(datasets)


def test_mask_on_the_grid_of_the_scan(kit, tmp_path):
    from qsm_runtime.io import write_map

    (found,) = assemble(kit.classic(kit.Protocol()))
    acq = found.read(threads=1)
    inside = acq.scan.magnitude[0] > np.median(acq.scan.magnitude[0])
    write_map(tmp_path / "mask.nii", inside, acq.placement, {})
    again = found.read(mask=tmp_path / "mask.nii", threads=1)
    np.testing.assert_array_equal(again.mask, inside)
    assert again.source_paths[-1] == tmp_path / "mask.nii"


def test_headers_for_derived_series_carry_no_samples_and_nothing_private(kit):
    for style in ("classic", "enhanced"):
        (found,) = assemble(getattr(kit, style)(kit.Protocol(vendor="philips")))
        headers = found.read(threads=1).dicom.headers
        assert len(headers) == 6
        for header in headers:
            assert isinstance(header, Dataset)
            assert "PixelData" not in header
            assert not any(tag.is_private for tag in header.keys())  # noqa: SIM118
            assert header.PatientID == "SECRET-1"
            assert header.ImageType[-1] == "M"
            assert header.EchoTime == 4
            assert header.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
            assert len(header.ImagePositionPatient) == 3
            assert len(header.ImageOrientationPatient) == 6
            assert "PerFrameFunctionalGroupsSequence" not in header


def test_text_of_a_header_commands_no_terminal(kit):
    datasets = kit.classic(kit.Protocol())
    for ds in datasets:
        ds.SeriesDescription = "\x1b[2J../../etc\r\n" + "x" * 200
    (found,) = assemble(datasets)
    assert found.name == "series-8_2J-etc-" + "x" * 33
    description = found.main.first.instance.description
    assert description.isprintable()
    assert len(description) == 64


def test_nothing_said_names_the_patient(kit, tmp_path, caplog, recwarn, capfd):
    folder = kit.save(kit.classic(kit.Protocol())[:-3], tmp_path / "scan")
    contents = inspect_folder(folder)
    said = str(contents.document()) + caplog.text + str([str(w.message) for w in recwarn]) + str(capfd.readouterr())
    assert "incomplete" in said
    assert "Doe" not in said
    assert "SECRET" not in said


def test_inspect_of_named_files(tmp_path, capsys):
    from qsm_runtime.cli import main

    anat = tmp_path / "sub-1" / "anat"
    anat.mkdir(parents=True)
    for name in ("echo-1_part-mag", "echo-1_part-phase", "echo-2_part-phase"):
        (anat / f"sub-1_{name}_MEGRE.nii.gz").touch()
    assert main(["inspect", str(tmp_path)]) == 3
    assert "missing: sub-1_echo-2_part-phase_MEGRE.nii.gz has no part-mag" in capsys.readouterr().out
