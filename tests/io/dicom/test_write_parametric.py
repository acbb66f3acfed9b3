"""Parametric Map: float32 values unrounded, valid by an independent checker, in the place of the source."""

import numpy as np
import pydicom
import pytest
from made_dicom import dciodvfy

from qsm_runtime.errors import OutputError, UsageError
from qsm_runtime.io.dicom import assemble, find_dicom
from qsm_runtime.io.dicom.quantities import QUANTITIES

pytest.importorskip("highdicom", reason="highdicom is not installed (pip install highdicom)")
from qsm_runtime.io.dicom.parametric import encoded, parametric_maps

RECORD = {"recipe": {"name": "default", "single_step": {"method": "joint_tv"}}}


def errors(path):
    return [line for line in dciodvfy(path) if line.startswith("Error")]


@pytest.mark.parametrize(
    ("vendor", "style"), [("siemens", "classic"), ("siemens-xa", "enhanced"), ("philips", "enhanced")]
)
def test_parametric_map(kit, tmp_path, vendor, style):
    protocol = kit.Protocol(vendor=vendor, orientation=kit.oblique(), acquisition="3D")
    datasets = getattr(kit, style)(protocol)
    for ds in datasets:
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.PatientBirthDate = "20240102", "100000", "17", "19700101"
    acq = assemble(datasets)[0].read(threads=1)
    chi = np.random.default_rng(0).normal(0, 0.1, acq.scan.grid.shape).astype(np.float32)
    maps = {"chi": chi, "mask": chi > 0}
    made = parametric_maps(acq, maps, RECORD, warnings=["doubtful"], late=True)
    for kind, array in maps.items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(encoded(made[kind]))
        assert errors(path) == []
        ds = pydicom.dcmread(path)
        planes = acq.dicom.planes(array)
        frames = ds.PerFrameFunctionalGroupsSequence
        shared = ds.SharedFunctionalGroupsSequence[0]
        assert ds.pixel_array.dtype == np.float32
        for frame, values in zip(frames, ds.pixel_array, strict=True):
            position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            offsets = [np.abs(np.array(h.ImagePositionPatient, float) - position).max() for h in acq.dicom.headers]
            k = int(np.argmin(offsets))
            assert offsets[k] < 1e-6
            np.testing.assert_array_equal(values, planes[k].astype(np.float32))
            sources = frame.DerivationImageSequence[0].SourceImageSequence
            assert {s.ReferencedSOPInstanceUID for s in sources} == {o.sop_uid for o in acq.dicom.plane_sources[k]}
        mapping = shared.RealWorldValueMappingSequence[0]
        concept = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
        assert concept.CodeValue == QUANTITIES[kind].concept[0]
        assert ds.PatientID == "SECRET-1"
        assert ds.StudyInstanceUID == datasets[0].StudyInstanceUID
        assert ds.FrameOfReferenceUID == datasets[0].FrameOfReferenceUID
        assert ds.SeriesDescription.startswith("LATE QSM")
        assert "doubtful" in ds.ImageComments
        sources = {
            i.ReferencedSOPInstanceUID for s in ds.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence
        }
        assert sources == {d.SOPInstanceUID for d in datasets}


def test_own_reader_never_takes_one_for_a_scan(kit, tmp_path):
    kit.save(kit.classic(kit.Protocol()), tmp_path)
    (alone,) = find_dicom(tmp_path)
    acq = alone.read(threads=1)
    made = parametric_maps(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, RECORD)
    (tmp_path / "chi.dcm").write_bytes(encoded(made["chi"]))
    (found,) = find_dicom(tmp_path)
    assert (found.name, found.missing) == (alone.name, ())


def test_refused(kit, scan_files):
    from qsm_runtime.io import read_nifti

    acq = assemble(kit.classic(kit.Protocol()))[0].read(threads=1)
    chi = np.full(acq.scan.grid.shape, np.nan, np.float32)
    with pytest.raises(OutputError, match="not finite"):
        parametric_maps(acq, {"chi": chi}, RECORD)
    paths = scan_files.per_echo()
    with pytest.raises(UsageError, match="give the DICOM folder"):
        parametric_maps(read_nifti(paths["mag"], paths["phase"]), {"chi": chi}, RECORD)
