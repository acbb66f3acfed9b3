"""qsm compare, picture, methods and recipes."""

import json

import nibabel as nib
import numpy as np
import pytest

from qsm_runtime import recipe as recipes
from qsm_runtime import stages
from qsm_runtime.cli.catalogue import to_toml


def test_a_map_equals_itself(qsm, truth):
    chi = truth / "sub-sim_Chimap.nii.gz"
    ran = qsm(
        "compare", chi, chi, "--mask", truth / "sub-sim_mask.nii.gz", "--seg", truth / "sub-sim_dseg.nii.gz", "--json"
    )
    assert ran.code == 0, ran.err
    scores = ran.document["scores"]
    assert scores["xsim"] == pytest.approx(1)
    assert scores["slope"] == pytest.approx(1)
    assert scores["nrmse_pct"] < 1e-3


def test_compare_knows_scale_and_constant(qsm, truth, tmp_path):
    image = nib.load(truth / "sub-sim_desc-total_fieldmap.nii.gz")
    nib.save(nib.Nifti1Image(2 * np.asarray(image.dataobj) + 1, image.affine), tmp_path / "twice.nii.gz")
    common = (
        tmp_path / "twice.nii.gz",
        truth / "sub-sim_desc-total_fieldmap.nii.gz",
        "--mask",
        truth / "sub-sim_mask.nii.gz",
    )
    ran = qsm("compare", *common, "--field", "--json", "--picture", tmp_path / "d.png")
    assert ran.code == 0, ran.err
    assert ran.document["scores"]["slope"] == pytest.approx(2, rel=1e-4)
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    ran = qsm("compare", *common, "--picture", tmp_path / "d.png")
    assert ran.code == 5
    assert "--overwrite" in ran.err
    ran = qsm("compare", *common)
    assert ran.code == 0
    assert "xsim" in ran.out


def test_maps_in_different_places_are_not_compared(qsm, truth, tmp_path):
    image = nib.load(truth / "sub-sim_Chimap.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "moved.nii.gz")
    ran = qsm("compare", tmp_path / "moved.nii.gz", truth / "sub-sim_Chimap.nii.gz")
    assert ran.code == 3
    assert "affine" in ran.err
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), image.affine), tmp_path / "small.nii.gz")
    ran = qsm("picture", truth / "sub-sim_Chimap.nii.gz", tmp_path / "small.nii.gz", "-o", tmp_path / "x.png")
    assert ran.code == 3
    assert "shape" in ran.err
    assert not (tmp_path / "x.png").exists()


def test_picture(qsm, truth, tmp_path):
    chi, field = truth / "sub-sim_Chimap.nii.gz", truth / "sub-sim_desc-total_fieldmap.nii.gz"
    ran = qsm("picture", chi, field, "-o", tmp_path / "a.png", "--window", "-0.1,0.1", "--title", "truth")
    assert ran.code == 0
    assert ran.out.strip() == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert qsm("picture", chi, "-o", tmp_path / "a.jpg").code == 2
    assert qsm("picture", chi, "-o", tmp_path / "b.png", "--window", "1,0").code == 2
    assert qsm("picture", chi, "-o", tmp_path / "a.png").code == 5


def test_methods_lists_what_the_code_has(qsm):
    listed = qsm("methods", "--json").document["stages"]
    assert {s: [m["name"] for m in found] for s, found in listed.items()} == {
        s: list(stages.methods(s)) for s in stages.STAGES
    }
    out = qsm("methods", "background").out
    assert "radius_mm" in out
    assert "  default " in out
    assert "a number" in out
    assert qsm("methods", "inversion", "tkd").out.startswith("inversion tkd")


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_print_as_toml_that_reads_back(qsm, name):
    ran = qsm("recipes", name)
    assert ran.code == 0
    assert recipes.parse(ran.out, name).as_dict() == recipes.load(name).as_dict()
    assert name in qsm("recipes").out


def test_toml_of_awkward_values():
    text = to_toml(
        {"description": 'a "b" \\', "mask": {"method": "m", "x": (1, 2.5), "y": None, "z": True, "e": 1e-20}}
    )
    import tomllib

    back = tomllib.loads(text)
    assert back == {"description": 'a "b" \\', "mask": {"method": "m", "x": [1, 2.5], "z": True, "e": 1e-20}}
    assert json.dumps(back)
