"""Derived series: valid by an independent checker, in the place of the anatomy, and the same ppm for every reader."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from made_dicom import dciodvfy
from pydicom.uid import generate_uid

from qsm_runtime.errors import OutputError, ShapeError, UsageError
from qsm_runtime.io import read_nifti
from qsm_runtime.io.dicom import assemble, find_dicom, inspect_folder
from qsm_runtime.io.dicom.quantities import QUANTITIES
from qsm_runtime.io.dicom.write import derived_series, write_series

RECORD = {
    "recipe": {"name": "default", "field": {"method": "weighted"}, "single_step": {"method": "joint_tv"}},
    "reference": {"region": "whole_mask", "value_ppm": 0.0123456, "voxels": 10},
}
SOURCES = [
    ("siemens", "classic"),
    ("siemens-xa", "enhanced"),
    ("philips", "classic"),
    ("philips", "enhanced"),
    ("ge", "classic"),
]
# what the checker remarks on and why it stays: the standard's MR IOD has no Modality LUT, which every reader applies;
# our codes and words extend lists that may be extended
ACCEPTED = (
    "Attribute is not present in standard DICOM IOD",
    "Dicom dataset contains attributes not present in standard DICOM IOD",
    "Unrecognized defined term",
    "Non-identity Modality LUT Module",
    "only permitted to be empty when actually unknown",  # Laterality, where the source names no body part
    "Retired Person Name form",  # of the source's own names
)


def acquired(kit, style="classic", **options):
    datasets = getattr(kit, style)(kit.Protocol(**options))
    for ds in datasets:
        ds.StudyDate, ds.StudyTime, ds.StudyID = "20240102", "100000", "17"
    return assemble(datasets)[0].read(threads=1)


def maps_of(acq, seed=0):
    """A map of every kind within its range, of values that no count holds exactly."""
    rng = np.random.default_rng(seed)
    shape = acq.scan.grid.shape
    maps = {}
    for kind, quantity in QUANTITIES.items():
        low, high = (value * float(quantity.step) for value in quantity.limits)
        maps[kind] = rng.uniform(low, high, shape).astype(np.float32)
    maps["mask"] = rng.random(shape) < 0.5
    maps["swi"] = rng.uniform(0, 4000, shape).astype(np.float32)
    return maps


def remarks(path):
    """Errors and warnings of dciodvfy about a file, but for those accepted."""
    found = [line for line in dciodvfy(path) if line.startswith(("Error", "Warning"))]
    return [line for line in found if not any(words in line for words in ACCEPTED)]


def converted(folder, out):
    """What dcm2niix makes of a folder, by the name of the map's folder."""
    tool = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if tool is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    out.mkdir()
    subprocess.run([tool, "-b", "y", "-z", "n", "-f", "%f", "-o", out, folder], check=True, capture_output=True)
    return sorted(out.glob("*.nii"))


@pytest.mark.parametrize(("vendor", "style"), SOURCES)
def test_valid_and_where_the_source_is(kit, tmp_path, vendor, style):
    acq = acquired(kit, style, vendor=vendor, orientation=kit.oblique(), acquisition="3D", shape=(12, 10, 3))
    maps = maps_of(acq)
    series = derived_series(acq, maps, RECORD, warnings=["doubtful"])
    folders = write_series(tmp_path / "maps", series)
    assert list(folders) == list(maps)
    seen = set()
    for kind, folder in folders.items():
        planes = acq.dicom.planes(maps[kind])
        files = sorted(folder.iterdir())
        assert len(files) == len(acq.dicom.headers)
        assert remarks(files[0]) == []
        for number, (path, header) in enumerate(zip(files, acq.dicom.headers, strict=True), 1):
            ds = pydicom.dcmread(path)
            assert ds.InstanceNumber == number
            assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
            assert ds.SOPInstanceUID not in seen
            seen.add(ds.SOPInstanceUID)
            for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
                assert ds[keyword].value == header[keyword].value
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
                wanted = np.array(header[keyword].value, float)
                np.testing.assert_allclose(np.array(ds[keyword].value, float), wanted, atol=1e-9)
            values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            assert np.abs(values - planes[number - 1]).max() <= 0.501 * float(QUANTITIES[kind].step)
            mapping = ds.RealWorldValueMappingSequence[0]
            assert mapping.RealWorldValueSlope == float(ds.RescaleSlope)
            assert mapping.RealWorldValueFirstValueMapped == QUANTITIES[kind].limits[0]
        assert ds.ImageType[:2] == ["DERIVED", "PRIMARY"]
        assert not any(element.tag.is_private for element in ds.iterall())
        assert "doubtful" in ds.ImageComments
        assert "EchoNumbers" not in ds
        assert ds.EchoTime is None
    assert len({pydicom.dcmread(next(f.iterdir())).SeriesInstanceUID for f in folders.values()}) == len(maps)


def test_what_the_header_of_chi_says(kit):
    acq = acquired(kit)
    (series,) = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, RECORD)
    ds = series.datasets[2]
    mapping = ds.RealWorldValueMappingSequence[0]
    concept = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == ("126396", "DCM")
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("ppm", "UCUM")
    assert ds["RescaleSlope"].value.original_string == "0.0001"
    assert (ds.WindowCenter, ds.WindowWidth) == (0, 0.4)
    assert ds.SeriesDescription == series.description == "QSM chi ppm default"
    assert "joint_tv" in ds.DerivationDescription
    assert "0.0123456 ppm subtracted" in ds.DerivationDescription
    assert "Research use only" in ds.ImageComments
    assert ds.ContributingEquipmentSequence[0].Manufacturer == "SIEMENS"
    assert ds.Manufacturer == "qsm_runtime"
    assert ds.SeriesNumber == 701
    # every echo of magnitude and phase of this very plane
    sources = {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence}
    assert len(sources) == 2 * 3
    assert acq.dicom.headers[2].SOPInstanceUID in sources
    assert acq.dicom.headers[1].SOPInstanceUID not in sources


def test_frames_of_an_enhanced_source_are_named(kit):
    acq = acquired(kit, "enhanced", vendor="siemens-xa")
    (series,) = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, RECORD)
    numbers = []
    for ds in series.datasets:
        (item,) = ds.SourceImageSequence
        assert len(item.ReferencedFrameNumber) == 2 * 3
        numbers += item.ReferencedFrameNumber
    assert sorted(numbers) == list(range(1, 2 * 3 * 6 + 1))


def test_late_answers_say_so(kit):
    acq = acquired(kit)
    (series,) = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, RECORD, late=True)
    assert series.description.startswith("LATE")
    assert "deadline" in series.datasets[0].ImageComments


def test_values_beyond_the_range_are_clipped_counted_and_said(kit):
    acq = acquired(kit)
    chi = np.zeros(acq.scan.grid.shape, np.float32)
    chi[0, 0, 0], chi[1, 0, 0], chi[2, 0, 0] = 9.4, -4.0, 3.2767
    (series,) = derived_series(acq, {"chi": chi}, RECORD)
    assert series.clipped == 2
    assert "2 voxels lie beyond -3.2768 to 3.2767 ppm" in series.warnings[0]
    assert series.warnings[0] in series.datasets[-1].ImageComments
    stored = np.stack([ds.pixel_array for ds in series.datasets])
    assert (stored.max(), stored.min()) == (32767, -32768)


def test_what_is_refused(kit, scan_files):
    acq = acquired(kit)
    chi = np.zeros(acq.scan.grid.shape, np.float32)
    with pytest.raises(UsageError, match="none of chi"):
        derived_series(acq, {"velocity": chi}, RECORD)
    with pytest.raises(ShapeError):
        derived_series(acq, {"chi": chi[1:]}, RECORD)
    chi[0, 0, 0] = np.nan
    with pytest.raises(OutputError, match="not finite"):
        derived_series(acq, {"chi": chi}, RECORD)
    paths = scan_files.per_echo()
    plain = read_nifti(paths["mag"], paths["phase"])
    with pytest.raises(UsageError, match="give the DICOM folder"):
        derived_series(plain, {"chi": np.zeros(plain.scan.grid.shape, np.float32)}, RECORD)


ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "axial from the feet": (1, 0, 0, 0, -1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
}


@pytest.mark.parametrize("acquisition", ["2D", "3D"])
@pytest.mark.parametrize("name", [*ORIENTATIONS, *(f"oblique {n}" for n in ORIENTATIONS)])
def test_a_point_lands_where_the_anatomy_is(kit, tmp_path, name, acquisition):
    """The voxel brightest in the magnitude at a place in the patient is the one that the written map shows there."""
    base = ORIENTATIONS[name.removeprefix("oblique ")]
    orientation = kit.oblique(base=base) if name.startswith("oblique") else base
    protocol = kit.Protocol(orientation=orientation, acquisition=acquisition)
    datasets = kit.classic(protocol)
    wanted = {}  # places of three voxels, no two in one row, column or plane
    marks = {(2, 7, 1): 0.1, (9, 1, 4): 0.2, (5, 4, 3): 0.3}
    for k, _, place in protocol.planes():
        for (i, j, slice_), value in marks.items():
            if slice_ == k:
                wanted[value] = place[:, j, i]
    acq = assemble(datasets)[0].read(threads=1)
    ras_to_voxel = np.linalg.inv(acq.affine)
    chi = np.zeros(acq.scan.grid.shape, np.float32)
    for value, place in wanted.items():
        at = ras_to_voxel @ np.append(np.diag([-1, -1, 1]) @ place, 1)
        np.testing.assert_allclose(at, np.rint(at), atol=1e-4)
        chi[tuple(np.rint(at[:3]).astype(int))] = value
        assert acq.scan.magnitude[(0, *np.rint(at[:3]).astype(int))] == kit.magnitude_at(place, 0)
    folders = write_series(tmp_path / "maps", derived_series(acq, {"chi": chi}, RECORD))
    found = {}
    for path in folders["chi"].iterdir():
        ds = pydicom.dcmread(path)
        position, cosines = np.array(ds.ImagePositionPatient, float), np.array(ds.ImageOrientationPatient, float)
        between_rows, between_columns = (float(v) for v in ds.PixelSpacing)
        for j, i in np.argwhere(ds.pixel_array):
            place = position + cosines[:3] * between_columns * i + cosines[3:] * between_rows * j  # PS3.3 C.7.6.2.1.1
            found[round(ds.pixel_array[j, i] * float(ds.RescaleSlope), 4)] = place
    assert sorted(found) == sorted(wanted)
    for value, place in wanted.items():
        np.testing.assert_allclose(found[value], place, atol=1e-4)


@pytest.mark.parametrize("acquisition", ["2D", "3D"])
@pytest.mark.parametrize("name", ["AXIAL", "SAGITTAL", "CORONAL", "oblique"])
def test_dcm2niix_reads_the_same_ppm_at_the_same_place(kit, tmp_path, name, acquisition):
    orientation = kit.oblique() if name == "oblique" else getattr(kit, name)
    acq = acquired(kit, orientation=orientation, acquisition=acquisition)
    chi = np.random.default_rng(1).normal(0, 0.3, acq.scan.grid.shape).astype(np.float32)
    folders = write_series(tmp_path / "maps", derived_series(acq, {"chi": chi}, RECORD))
    (path,) = converted(folders["chi"], tmp_path / "nii")
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, acq.affine, atol=2e-4)
    step = float(QUANTITIES["chi"].step)
    stored = np.rint(chi.astype(float) / step)
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()), stored)
    np.testing.assert_allclose(np.asarray(image.dataobj), stored * step, rtol=1e-6)


@pytest.mark.parametrize("kind", list(QUANTITIES))
def test_dcm2niix_reads_every_kind(kit, tmp_path, kind):
    acq = acquired(kit, acquisition="3D")
    array = maps_of(acq)[kind]
    folders = write_series(tmp_path / "maps", derived_series(acq, {kind: array}, RECORD))
    (path,) = converted(folders[kind], tmp_path / "nii")
    step = float(QUANTITIES[kind].step)
    assert np.abs(np.asarray(nib.load(path).dataobj) - array).max() <= 0.501 * step


def test_own_reader_never_takes_a_map_for_a_scan(kit, tmp_path):
    acq = acquired(kit)
    kit.save(kit.classic(kit.Protocol()), tmp_path / "study")
    (alone,) = find_dicom(tmp_path / "study")
    acq = alone.read(threads=1)
    write_series(tmp_path / "study" / "maps", derived_series(acq, maps_of(acq), RECORD))
    (found,) = find_dicom(tmp_path / "study")
    assert (found.name, found.reason, found.missing) == (alone.name, alone.reason, ())
    again = found.read(threads=1)
    np.testing.assert_array_equal(again.scan.phase_rad, acq.scan.phase_rad)
    contents = inspect_folder(tmp_path / "study")
    computed = [series for series in contents.series if series.series.removeprefix("series ").startswith("70")]
    assert len(computed) == len(QUANTITIES)
    assert all(series.use.startswith("not used") for series in computed)


def test_whole_or_not_at_all(kit, tmp_path):
    acq = acquired(kit)
    series = derived_series(acq, {k: m for k, m in maps_of(acq).items() if k in ("chi", "mask")}, RECORD)

    class Full:
        def save_as(self, stream, enforce_file_format):
            raise OSError(28, "No space left on device")

    broken = [series[0], type(series[1])("mask", (*series[1].datasets[:2], Full()))]
    with pytest.raises(OutputError, match="the disk is full"):
        write_series(tmp_path / "maps", broken)
    assert list(tmp_path.iterdir()) == []
    write_series(tmp_path / "maps", series)
    first = {p.name: p.read_bytes() for p in (tmp_path / "maps" / "chi").iterdir()}
    with pytest.raises(OutputError, match="--overwrite"):
        write_series(tmp_path / "maps", series)
    with pytest.raises(OutputError, match="the disk is full"):
        write_series(tmp_path / "maps", broken, overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "maps" / "chi").iterdir()} == first
    write_series(tmp_path / "maps", series[:1], overwrite=True)
    assert [p.name for p in tmp_path.rglob("*") if p.is_dir()] == ["maps", "chi"]


def test_a_folder_of_other_files_is_never_replaced(kit, tmp_path):
    acq = acquired(kit)
    series = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, RECORD)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "thesis.txt").write_text("words")
    with pytest.raises(OutputError, match="other files"):
        write_series(tmp_path / "maps", series, overwrite=True)
    assert (tmp_path / "maps" / "thesis.txt").read_text() == "words"
    with pytest.raises(OutputError, match="input"):
        write_series(tmp_path / "maps", series, overwrite=True, inputs=[tmp_path / "maps" / "chi" / "0001.dcm"])


def test_two_answers_of_one_scan_are_two_series(kit):
    acq = acquired(kit)
    maps = {"chi": np.zeros(acq.scan.grid.shape, np.float32)}
    one, two = (derived_series(acq, maps, RECORD)[0].datasets[0] for _ in range(2))
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert generate_uid(prefix=None).startswith("2.25.")


def test_real_scans(shared_data, tmp_path):
    for number, name in enumerate(("siemens_6echo", "siemens_xa30/In", "philips_enh/In/cl", "philips_enh/In/enh")):
        (found,) = find_dicom(shared_data / name)
        acq = found.read()
        chi = np.random.default_rng(2).normal(0, 0.1, acq.scan.grid.shape).astype(np.float32)
        folders = write_series(tmp_path / str(number), derived_series(acq, {"chi": chi}, RECORD))
        files = sorted(folders["chi"].iterdir())
        assert remarks(files[0]) == []
        (path,) = converted(folders["chi"], tmp_path / f"{number}-nii")
        image = nib.load(path)
        np.testing.assert_allclose(image.affine, acq.affine, atol=2e-3)
        assert np.abs(np.asarray(image.dataobj) - chi).max() < 0.51e-4
