"""qsm phantom, demo and warmup."""

import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest

from qsm_runtime import phantom
from qsm_runtime.grid import Grid
from qsm_runtime.phantom import simulate_head
from qsm_runtime.simulated import placement_of

SMALL = Grid((40, 48, 40), (4.0, 4.0, 4.0))


def test_phantom_is_a_dataset_with_its_truth(dataset, truth):
    anat = dataset / "sub-sim" / "anat"
    assert len(list(anat.glob("*part-mag_MEGRE.nii.gz"))) == len(list(anat.glob("*part-phase_MEGRE.nii.gz"))) == 3
    assert json.loads((anat / "sub-sim_echo-2_part-phase_MEGRE.json").read_text())["EchoTime"] == 0.009
    assert {p.name for p in truth.glob("*.nii.gz")} == {
        f"sub-sim_{kind}.nii.gz"
        for kind in ("Chimap", "mask", "dseg", "desc-total_fieldmap", "desc-local_fieldmap", "R2starmap")
    }
    assert json.loads((dataset / "dataset_description.json").read_text())["DatasetType"] == "raw"
    assert "\tpallidum" in (truth / "sub-sim_dseg.tsv").read_text()


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, -1, 0), (0.3, -0.4, 0.8)])
def test_the_affine_keeps_grid_and_field_direction(b0_dir):
    grid = Grid((10, 12, 9), (1.0, 1.5, 2.0), b0_dir)
    placement = placement_of(grid)
    again = Grid.from_affine(grid.shape, placement.affine)
    assert np.allclose(again.b0_dir, grid.b0_dir)
    assert np.allclose(again.voxel_mm, grid.voxel_mm)
    assert np.linalg.det(placement.affine[:3, :3]) > 0
    assert np.allclose(placement.affine @ [4.5, 5.5, 4, 1], [0, 0, 0, 1])


def test_seeds_and_oblique_fields(qsm, tmp_path):
    for name, more in (("a", ()), ("b", ("--seed", 1)), ("c", ("--b0-dir", "0,0.6,0.8"))):
        ran = qsm(
            "phantom", "-o", tmp_path / name, "--matrix", "24,24,20", "--voxel-mm", "8,8,8", "--echo-times-ms", "5,9",
            "--json", *more,
        )  # fmt: skip
        assert ran.code == 0
        assert len(ran.document["images"]) == 10
    path = "sub-sim/anat/sub-sim_echo-1_part-phase_MEGRE.nii.gz"
    a, b, c = (nib.load(tmp_path / name / path) for name in "abc")
    assert not np.array_equal(a.dataobj, b.dataobj)
    assert not np.array_equal(a.dataobj, c.dataobj)
    assert np.allclose(c.affine[2, :3] / 8, (0, 0.6, 0.8))
    ran = qsm("phantom", "-o", tmp_path / "a", "--matrix", "24,24,20", "--voxel-mm", "8,8,8")
    assert ran.code == 5
    assert "--overwrite" in ran.err


@pytest.mark.parametrize("given", [("--matrix", "3,4"), ("--matrix", "3.5,4,4"), ("--snr", "0"), ("--subject", "a/b")])
def test_phantom_options_are_checked(qsm, tmp_path, given):
    assert qsm("phantom", "-o", tmp_path / "p", *given).code == 2
    assert not (tmp_path / "p").exists() or not list((tmp_path / "p").iterdir())


def test_demo_scores_its_map(qsm, tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(phantom, "simulate_head", partial(simulate_head, SMALL))
    monkeypatch.chdir(tmp_path)
    ran = qsm("demo", "--recipe", recipe)
    assert ran.code == 0, ran.err
    assert "XSIM" in ran.out
    assert "qsm_demo/sub-demo_Chimap.png" in ran.out.replace("\\", "/")
    assert (tmp_path / "qsm_demo" / "sub-demo_Chimap.nii.gz").is_file()
    assert (tmp_path / "qsm_demo" / "sub-demo_Chimap.png").stat().st_size > 10_000
    ran = qsm("demo", "--recipe", recipe)
    assert ran.code == 5
    assert "not empty" in ran.err
    ran = qsm("demo", "--recipe", recipe, "--overwrite", "--json")
    scores = ran.document["scores"]
    assert scores["total_field"]["correlation"] > 0.95
    assert scores["susceptibility"]["correlation"] > 0.5
    assert ran.document["total_seconds"] > 0


def test_warmup_compiles_and_plans(qsm, recipe, dataset):
    ran = qsm("warmup", dataset, "--recipe", recipe, "--shape", "20,21,22", "--json", "-q")
    assert ran.code == 0, ran.err
    assert set(ran.document["one_time_seconds"]) == {"compilation", "fft_planning"}
    assert ran.err == ""
    ran = qsm("warmup", "--recipe", recipe)
    assert ran.code == 0
    assert "will not be paid again" in ran.err
