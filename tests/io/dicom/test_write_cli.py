"""`qsm run --format`: maps of a DICOM folder as DICOM, and what is said where that cannot be."""

import json

import numpy as np
import pydicom
import pytest

from qsm_runtime.cli import main
from qsm_runtime.io import read_map
from qsm_runtime.io.dicom.quantities import QUANTITIES

RECIPE = """
description = "quick"
[mask]
method = "threshold"
[offset]
method = "none"
[unwrap]
method = "laplacian"
[field]
method = "weighted"
[background]
method = "sharp"
radius_mm = 4.0
[inversion]
method = "tkd"
[reference]
method = "whole_mask"
"""


@pytest.fixture(scope="module")
def folder(kit, tmp_path_factory):
    """A ball of signal in a smooth phase, oblique."""
    protocol = kit.Protocol(
        vendor="siemens-xa", shape=(24, 20, 16), spacing_mm=(2.0, 2.0, 2.0), origin=(-24.0, -20.0, -16.0),
        orientation=kit.oblique(4.0, 3.0), acquisition="3D", echo_times_ms=(4.0, 9.0),
    )  # fmt: skip
    return kit.save(kit.classic(protocol), tmp_path_factory.mktemp("dicom"))


@pytest.fixture
def options(tmp_path):
    (tmp_path / "quick.toml").write_text(RECIPE)
    return ["--recipe", str(tmp_path / "quick.toml"), "-o", str(tmp_path / "out"), "--no-picture", "-q", "--json"]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_nifti_and_dicom_hold_the_same_map(folder, options, tmp_path, capsys):
    code, out, err = run(capsys, "run", folder, *options, "--format", "dicom,nifti", "--save", "mask,total")
    assert code == 0, err
    (done,) = json.loads(out)["scans"]
    for kind in ("chi", "mask", "total"):
        array = read_map(done["outputs"][kind]).array
        by_height = {}
        files = [pydicom.dcmread(p) for p in sorted((tmp_path / "out").glob(f"*_dicom/{kind}/*.dcm"))]
        assert len(files) == 16
        for ds in files:
            values = ds.pixel_array * float(ds.RescaleSlope)
            by_height[float(ds.ImagePositionPatient[2])] = values
        # a 3-D scan is turned to right, anterior, superior: rows run to the back, columns to the left
        planes = np.stack([by_height[h] for h in sorted(by_height)])[:, ::-1, ::-1].transpose(2, 1, 0)
        assert np.abs(planes - array).max() <= 0.501 * float(QUANTITIES[kind].step)
    assert files[0].SeriesDescription == "QSM total field ppm quick"


def test_dicom_alone_and_again(folder, options, tmp_path, capsys):
    code, out, err = run(capsys, "run", folder, *options, "--format", "dicom")
    assert code == 0, err
    assert list(json.loads(out)["scans"][0]["outputs"]) == ["chi_dicom"]
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    code, _, err = run(capsys, "run", folder, *options, "--format", "dicom")
    assert code == 5
    assert "--overwrite" in err
    code, _, err = run(capsys, "run", folder, *options, "--format", "dicom", "--overwrite")
    assert code == 0, err


def test_parametric_map(folder, options, tmp_path, capsys):
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install highdicom)")
    code, out, err = run(capsys, "run", folder, *options, "--format", "nifti,parametric-map")
    assert code == 0, err
    (done,) = json.loads(out)["scans"]
    ds = pydicom.dcmread(done["outputs"]["chi_parametric_map"])
    assert sorted(ds.pixel_array.ravel()) == sorted(read_map(done["outputs"]["chi"]).array.ravel())


def test_refused_before_any_work(scan_files, options, tmp_path, capsys):
    paths = scan_files.per_echo()
    files = ["--magnitude", *paths["mag"], "--phase", *paths["phase"]]
    code, _, err = run(capsys, "run", *files, *options, "--format", "dicom")
    assert code == 2
    assert "give the DICOM folder as input" in err
    code, _, err = run(capsys, "run", *files, *options, "--format", "dicm")
    assert code == 2
    assert "did you mean dicom?" in err
    assert not (tmp_path / "out").exists()
