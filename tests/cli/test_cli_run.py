"""qsm run: what it writes, what it prints, what it leaves alone."""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np


def digest(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_run_writes_maps_a_record_and_a_picture_and_leaves_inputs_alone(qsm, dataset, recipe, tmp_path):
    before = digest(dataset)
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe)
    assert ran.code == 0, ran.err
    anat = tmp_path / "sub-sim" / "anat"
    assert sorted(p.name for p in anat.iterdir()) == [
        "sub-sim_Chimap.json",
        "sub-sim_Chimap.nii.gz",
        "sub-sim_Chimap.png",
    ]
    assert ran.out.split() == [str(anat / "sub-sim_Chimap.nii.gz"), str(anat / "sub-sim_Chimap.png")]
    assert "inversion tkd" in ran.err
    assert "done in" in ran.err
    record = json.loads((anat / "sub-sim_Chimap.json").read_text())
    used = record["Options"]["background"]
    assert (used["method"], used["radius_mm"]) == ("sharp", 6.0)
    assert "threshold" in used  # defaults are recorded too
    assert record["ReferenceRegion"] == "whole_mask"
    assert record["ReferenceVoxels"] > 1000
    assert record["Threads"] >= 1
    assert {"numpy", "numba", "pyfftw", "nibabel"} <= set(record["SoftwareVersions"])
    assert set(record["SecondsPerStage"]) >= {"mask", "unwrap", "field", "background", "inversion"}
    assert (anat / "sub-sim_Chimap.png").read_bytes().startswith(b"\x89PNG")
    assert digest(dataset) == before


def test_map_resembles_the_truth(reconstructed, truth):
    chi, mask = load(reconstructed / "sub-sim_Chimap.nii.gz"), load(reconstructed / "sub-sim_desc-qsm_mask.nii.gz") > 0
    right = load(truth / "sub-sim_Chimap.nii.gz")
    inside = mask & (load(truth / "sub-sim_mask.nii.gz") > 0)
    assert inside.sum() > 5000
    assert np.corrcoef(chi[inside], right[inside])[0, 1] > 0.5
    assert not chi[~mask].any()


def test_save_all_writes_every_map(reconstructed):
    names = {p.name.removeprefix("sub-sim_").removesuffix(".nii.gz") for p in reconstructed.glob("*.nii.gz")}
    assert names == {
        "Chimap", "desc-qsm_mask", "desc-total_fieldmap", "desc-local_fieldmap", "desc-reliability_fieldmap",
        "R2starmap", "desc-swi_T2starw",
    }  # fmt: skip


def test_json_is_one_document_alone_on_stdout(qsm, dataset, recipe, tmp_path):
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe, "--json", "--no-picture", "--save", "mask,total")
    assert ran.code == 0
    document = ran.document
    (scan,) = document["scans"]
    assert set(scan["outputs"]) == {"chi", "mask", "total"}
    assert all(Path(p).is_file() for p in scan["outputs"].values())
    assert scan["recipe"]["inversion"]["method"] == "tkd"
    assert scan["seconds"]["inversion"] >= 0
    assert document["exit_code"] == 0
    assert document["version"]
    assert document["peak_memory_mib"] > 50
    assert set(document["one_time_seconds"]) == {"compilation", "fft_planning"}


def test_quiet_prints_nothing(qsm, dataset, recipe, tmp_path):
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe, "--quiet", "--phase-sign", "+", "--no-picture")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_existing_outputs_stay_unless_overwritten(qsm, dataset, recipe, tmp_path):
    anat = tmp_path / "sub-sim" / "anat"
    anat.mkdir(parents=True)
    old = anat / "sub-sim_Chimap.nii.gz"
    old.write_text("mine")
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe)
    assert ran.code == 5
    assert "--overwrite" in ran.err
    assert "inversion" not in ran.err
    assert old.read_text() == "mine"
    assert len(list(anat.iterdir())) == 1
    assert qsm("run", dataset, "-o", tmp_path, "--recipe", recipe, "--overwrite", "--no-picture").code == 0
    assert nib.load(old).shape == (40, 48, 40)


def test_an_existing_picture_stays_too(qsm, dataset, recipe, tmp_path):
    picture = tmp_path / "sub-sim" / "anat" / "sub-sim_Chimap.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("mine")
    assert qsm("run", dataset, "-o", tmp_path, "--recipe", recipe).code == 5
    assert picture.read_text() == "mine"
    assert len(list(picture.parent.iterdir())) == 1


def test_files_by_option_give_the_same_map_as_the_folder(qsm, dataset, recipe, reconstructed, tmp_path):
    anat = dataset / "sub-sim" / "anat"
    magnitude, phase = sorted(anat.glob("*part-mag*.nii.gz")), sorted(anat.glob("*part-phase*.nii.gz"))
    copies = tmp_path / "plain"
    copies.mkdir()
    for i, (m, p) in enumerate(zip(magnitude, phase, strict=True)):
        shutil.copy(m, copies / f"m{i}.nii.gz")
        shutil.copy(p, copies / f"p{i}.nii.gz")
    ran = qsm(
        "run", "-o", tmp_path / "out", "--recipe", recipe, "--no-picture", "-q",
        "--phase-scale", "rad", "--phase-sign", "+",
        "--magnitude", *sorted(copies.glob("m*")), "--phase", *sorted(copies.glob("p*")),
        "--echo-times-ms", "4,9,14", "--b0-tesla", "3",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (chi,) = (tmp_path / "out").glob("*_Chimap.nii.gz")
    assert np.array_equal(load(chi), load(reconstructed / "sub-sim_Chimap.nii.gz"))


def test_own_mask_and_region(qsm, dataset, recipe, truth, tmp_path):
    mask = truth / "sub-sim_mask.nii.gz"
    ran = qsm(
        "run", dataset, "-o", tmp_path, "--recipe", recipe, "--mask", mask, "--region", mask, "--json", "--no-picture"
    )
    assert ran.code == 0, ran.err
    (scan,) = ran.document["scans"]
    assert scan["recipe"]["mask"] == {"method": "user"}
    assert scan["reference"]["region"] == "region"
    assert scan["mask_voxels"] <= np.count_nonzero(load(mask))
    record = json.loads(Path(scan["outputs"]["chi"]).with_name("sub-sim_Chimap.json").read_text())
    assert record["ReferenceRegion"] == "region sub-sim_mask.nii.gz"
    assert record["Options"]["mask"] == {"method": "user", "file": "sub-sim_mask.nii.gz"}


def test_options_reach_their_methods(qsm, dataset, recipe, tmp_path):
    ran = qsm(
        "run", dataset, "-o", tmp_path, "--recipe", recipe, "--json", "--no-picture", "--background", "vsharp",
        "--set", "background.radius_mm=8", "--set", "inversion.threshold=0.3", "--reference", "none",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    used = ran.document["scans"][0]["recipe"]
    assert used["background"]["method"] == "vsharp"
    assert used["background"]["radius_mm"] == 8.0
    assert used["inversion"]["threshold"] == 0.3
    assert used["reference"]["method"] == "none"
    assert used["name"] == "quick (changed)"


def test_one_bad_scan_does_not_stop_the_others(qsm, dataset, recipe, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(dataset / "sub-sim", both / "sub-b")
    shutil.copy(dataset / "dataset_description.json", both)
    for path in (both / "sub-b" / "anat").iterdir():
        path.rename(path.with_name(path.name.replace("sub-sim", "sub-b")))
    shutil.copytree(both / "sub-b", both / "sub-a")
    for path in (both / "sub-a" / "anat").iterdir():
        path.rename(path.with_name(path.name.replace("sub-b", "sub-a")))
    (both / "sub-a" / "anat" / "sub-a_echo-2_part-phase_MEGRE.nii.gz").unlink()
    ran = qsm("run", both, "-o", tmp_path / "out", "--recipe", recipe, "--json", "--no-picture")
    assert ran.code == 3
    document = ran.document
    assert [scan["name"] for scan in document["scans"]] == ["sub-a", "sub-b"]
    assert document["scans"][0]["error"]["exit_code"] == 3
    assert document["exit_code"] == 3
    assert Path(document["scans"][1]["outputs"]["chi"]).is_file()
    assert "1 of 2 scans failed" in ran.err
    ran = qsm("run", both, "-o", tmp_path / "one", "--recipe", recipe, "--select", "sub-b", "--no-picture", "-q")
    assert ran.code == 0
    ran = qsm("run", both, "-o", tmp_path / "none", "--recipe", recipe, "--select", "sub-c")
    assert ran.code == 2
    assert "sub-a, sub-b" in ran.err


def test_select_matches_whole_entities():
    from qsm_runtime.cli.source import matches

    assert matches("sub-1_ses-2_run-1", "sub-1")
    assert matches("sub-1_ses-2_run-1", "ses-2_sub-1")
    assert matches("sub-1_ses-2_run-1", "run-*")
    assert not matches("sub-10_ses-2", "sub-1")
    assert not matches("sub-1_ses-2", "sub-1_ses-3")
