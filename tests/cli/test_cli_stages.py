"""The stages one by one, through files, and against `qsm run`."""

import json

import nibabel as nib
import numpy as np
import pytest


def load(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    """Mask, unwrapped phase, fields and map, each by its own command."""
    from qsm_runtime.cli import main

    folder = tmp_path_factory.mktemp("stages")
    mask, field = f"{folder}/mask.nii.gz", f"{folder}/field.nii.gz"
    for command in (
        ["mask", str(dataset), "-o", mask],
        ["unwrap", str(dataset), "-o", f"{folder}/unwrapped.nii.gz", "--mask", mask],
        ["field", str(dataset), "-o", field, "--mask", mask, "--reliability", f"{folder}/weight.nii.gz"],
        ["background", field, "--mask", mask, "-o", f"{folder}/local.nii.gz", "--method", "sharp",
         "--set", "radius_mm=6"],
        ["invert", f"{folder}/local.nii.gz", "--mask", f"{folder}/local_mask.nii.gz", "-o", f"{folder}/chi.nii.gz",
         "--method", "tkd", "--reference", "whole_mask"],
    ):  # fmt: skip
        assert main([*command, "-q"]) == 0, command
    return folder


def test_stages_by_file_give_the_map_of_run(made, reconstructed):
    assert np.array_equal(load(made / "local_mask.nii.gz"), load(reconstructed / "sub-sim_desc-qsm_mask.nii.gz"))
    for name, other in (("field", "desc-total_fieldmap"), ("local", "desc-local_fieldmap"), ("chi", "Chimap")):
        mine, run = load(made / f"{name}.nii.gz"), load(reconstructed / f"sub-sim_{other}.nii.gz")
        assert np.abs(mine - run).max() < 0.01 * np.abs(run).max(), name


def test_sidecars_say_unit_and_options(made):
    local = json.loads((made / "local.json").read_text())
    assert local["Units"] == "ppm"
    assert local["Options"]["background"]["radius_mm"] == 6.0
    chi = json.loads((made / "chi.json").read_text())
    assert chi["Units"] == "ppm"
    assert chi["ReferenceRegion"] == "whole_mask"
    assert json.loads((made / "unwrapped.json").read_text())["Units"] == "rad"


def test_a_stage_alone_keeps_the_level_of_its_map(qsm, made, tmp_path):
    chi = tmp_path / "chi.nii.gz"
    ran = qsm("invert", made / "local.nii.gz", "--mask", made / "local_mask.nii.gz", "-o", chi, "--method", "tkd")
    assert ran.code == 0
    told, referenced = (json.loads(path.read_text()) for path in (tmp_path / "chi.json", made / "chi.json"))
    assert (told["ReferenceRegion"], told["ReferenceValue"]) == ("none", 0.0)
    inside = load(made / "local_mask.nii.gz") > 0
    moved = (load(chi) - load(made / "chi.nii.gz"))[inside]
    assert np.abs(moved - referenced["ReferenceValue"]).max() < 1e-6


def test_unwrapped_phase_differs_by_whole_turns(made, dataset):
    unwrapped, mask = load(made / "unwrapped.nii.gz"), load(made / "mask.nii.gz") > 0
    assert unwrapped.shape == (40, 48, 40, 3)
    for echo in range(3):
        wrapped = load(dataset / "sub-sim" / "anat" / f"sub-sim_echo-{echo + 1}_part-phase_MEGRE.nii.gz")
        turns = (unwrapped[..., echo] - wrapped)[mask] / (2 * np.pi)
        assert np.abs(turns - np.rint(turns)).max() < 1e-4


def test_fields_in_hz_are_converted(qsm, made, tmp_path):
    from qsm_runtime.units import hz_per_ppm

    image = nib.load(made / "field.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asarray(image.dataobj) * np.float32(hz_per_ppm(3.0)), image.affine), tmp_path / "hz.nii.gz"
    )
    common = ("--mask", made / "mask.nii.gz", "--method", "sharp", "--set", "radius_mm=6")
    ran = qsm("background", tmp_path / "hz.nii.gz", "-o", tmp_path / "a.nii.gz", *common)
    assert ran.code == 4
    assert "--units" in ran.err
    ran = qsm("background", tmp_path / "hz.nii.gz", "-o", tmp_path / "a.nii.gz", *common, "--units", "hz")
    assert ran.code == 4
    assert "--b0-tesla" in ran.err
    ran = qsm(
        "background", tmp_path / "hz.nii.gz", "-o", tmp_path / "a.nii.gz", *common, "--units", "hz", "--b0-tesla", "3"
    )
    assert ran.code == 0, ran.err
    assert np.allclose(load(tmp_path / "a.nii.gz"), load(made / "local.nii.gz"), atol=1e-5)


def test_mistakes(qsm, dataset, made, tmp_path):
    chi, local, mask = made / "chi.nii.gz", made / "local.nii.gz", made / "local_mask.nii.gz"
    ran = qsm("invert", local, "--mask", mask, "-o", chi, "--method", "tkd")
    assert ran.code == 5
    assert "--overwrite" in ran.err
    ran = qsm("invert", local, "--mask", mask, "-o", local, "--method", "tkd", "--overwrite")
    assert ran.code == 5
    assert "input" in ran.err
    ran = qsm("invert", local, "-o", tmp_path / "c.nii.gz", "--method", "tkd")
    assert ran.code == 2
    assert "--mask" in ran.err
    ran = qsm("invert", local, "--mask", mask, "-o", tmp_path / "c.nii.gz", "--method", "tdk")
    assert ran.code == 2
    assert "tkd" in ran.err
    ran = qsm("invert", local, "--mask", mask, "-o", tmp_path / "c.mgz", "--method", "tkd")
    assert ran.code == 2
    assert ".nii.gz" in ran.err
    ran = qsm("mask", dataset, "-o", tmp_path / "m.nii.gz", "--set", "nope=1")
    assert ran.code == 2
    assert "erode_mm" in ran.err
    assert list(tmp_path.iterdir()) == []
