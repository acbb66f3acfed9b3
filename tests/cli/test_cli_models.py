"""qsm models: list, show, verify, add, card; and the options that say how networks are run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from qsm_runtime.provenance import networks_said

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "networks"))
from small_model import convolutions, fields_of

SIZES = ([16, 20, 12], [20, 12, 16])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with one model and no self-tests yet; the user's own is empty."""
    monkeypatch.setenv("QSM_MODELS_DIR", str(tmp_path / "user"))
    given = tmp_path / "given"
    given.mkdir()
    (given / "small.onnx").write_bytes(convolutions())
    (given / "small.json").write_text(json.dumps(fields_of("small", convolutions())))
    return given


@pytest.fixture
def whole(folder, qsm) -> Path:
    assert qsm("models", "card", folder / "small.onnx", "--self-test").code == 0
    return folder


def test_list_and_show(qsm, whole) -> None:
    ran = qsm("models", "list", "--models", whole)
    assert ran.code == 0
    assert any(line.split()[:3] == ["small", "1.0", "inversion"] for line in ran.out.splitlines())
    rows = qsm("models", "list", "--models", whole, "--json").document["models"]
    assert next(r for r in rows if r["name"] == "small")["licence"] == "MIT"
    shown = qsm("models", "show", "small", "--models", whole)
    assert "local_field (ppm) as field [ncxyz]" in shown.out
    assert qsm("models", "show", "small", "--models", whole, "--json").document["card"]["size"]["multiple"] == 4
    missing = qsm("models", "show", "smal", "--models", whole)
    assert missing.code == 2
    assert "did you mean small?" in missing.err


def test_verify_add_and_use(qsm, whole, tmp_path) -> None:
    ran = qsm("models", "verify", "small", "--models", whole, "--device", "ort-cpu", "--json")
    assert ran.code == 0, ran.err
    report = ran.document["models"][0]
    assert report["holds"]
    assert report["provider"] == "cpu"
    assert [t["shape"] for t in report["self_test"]] == list(SIZES)
    added = qsm("models", "add", whole / "small.json")
    assert added.code == 0, added.err
    assert (tmp_path / "user" / "small.onnx").read_bytes() == convolutions()
    assert qsm("models", "verify", "small").code == 0
    again = qsm("models", "add", whole / "small.onnx")
    assert again.code == 5
    assert "--overwrite" in again.err


def test_verify_that_fails(qsm, whole) -> None:
    fields = json.loads((whole / "small.json").read_text())
    fields["self_test"][1]["seed"] = 7  # other inputs than those that made the outputs
    (whole / "small.json").write_text(json.dumps(fields))
    ran = qsm("models", "verify", "small", "--models", whole)
    assert ran.code == 6
    assert "does not hold" in ran.out
    assert "do not use it here" in ran.err
    refused = qsm("models", "add", whole / "small.json")
    assert refused.code == 6
    assert "was not added" in refused.err


def test_a_wrong_hash_and_a_truncated_file(qsm, whole) -> None:
    (whole / "small.onnx").write_bytes(convolutions(seed=3))
    ran = qsm("models", "verify", "small", "--models", whole, "--json")
    assert ran.code == 6
    assert ran.document["error"]["kind"] == "ModelError"
    assert "sha256" in ran.document["error"]["message"]
    (whole / "small.onnx").write_bytes(convolutions()[:-30])
    assert "truncated" in qsm("models", "verify", "small", "--models", whole).err


def test_a_draft_says_what_it_knows_and_is_no_card_yet(qsm, folder) -> None:
    (folder / "My Net.onnx").write_bytes(convolutions(sizes=(16, 12, 20)))
    ran = qsm("models", "card", folder / "My Net.onnx")
    assert ran.code == 0, ran.err
    made = json.loads((folder / "my-net.json").read_text())
    assert made["file"]["opset"] == 20
    assert made["inputs"][0] == {
        "tensor": "field", "meaning": None, "unit": None, "sign": None, "axes": "ncxyz", "dtype": "float32",
    }  # fmt: skip
    assert made["size"]["fixed"] == [16, 12, 20]
    assert "inputs[0].sign is still to be filled in; it takes one of 1, -1" in ran.out
    assert "geometry.voxel_mm is still to be filled in; it takes a list of 3 numbers or null" in ran.out
    shown = qsm("models", "show", "my-net", "--models", folder)
    assert shown.code == 6
    assert "inputs[0].unit is still to be filled in" in shown.err
    again = qsm("models", "card", folder / "My Net.onnx")
    assert again.code == 5
    assert qsm("models", "card", folder / "none.onnx").code == 6
    (folder / "text.onnx").write_text("not a network")
    assert "no ONNX file" in qsm("models", "card", folder / "text.onnx").err


def test_the_draft_of_a_finished_card_is_the_card(qsm, folder) -> None:
    """Filled in by what a good card says, a draft is read: it has every field."""
    assert qsm("models", "card", folder / "small.onnx", "--overwrite").code == 0
    made, good = json.loads((folder / "small.json").read_text()), fields_of("small", convolutions())
    assert set(good) - set(made) <= {"physics"}
    for part in (
        "licence",
        "file",
        "normalisation",
        "geometry",
        "size",
        "patching",
        "mask",
        "echoes",
        "domain",
        "runtime",
    ):
        assert set(made[part]) == set(good[part]), part
    for part in ("file", "self_test"):
        del good[part]
    (folder / "small.json").write_text(json.dumps(made | good | {"file": made["file"] | {"source": "onnx"}}))
    assert qsm("models", "show", "small", "--models", folder).code == 0


def test_a_network_in_place_of_an_inversion(qsm, folder, truth, tmp_path) -> None:
    fields = json.loads((folder / "small.json").read_text())
    fields["geometry"] |= {"voxel_mm": None, "b0": "any"}
    (folder / "small.json").write_text(json.dumps(fields))
    local, mask = (truth / f"sub-sim_{name}.nii.gz" for name in ("desc-local_fieldmap", "mask"))
    command = ["invert", local, "-o", tmp_path / "chi.nii.gz", "--mask", mask, "--method", "network", "--set"]
    command += ["model=small", "--models", folder]
    ran = qsm(*command, "--device", "cuda:63")
    assert ran.code == 7
    assert "--device cuda:63 cannot be met" in ran.err
    assert not (tmp_path / "chi.nii.gz").exists()
    ran = qsm(*command, "--device", "ort-cpu")
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "chi.json").read_text())["ChosenParameters"]["inversion.network"]
    assert (record["model"], record["provider"], record["precision"]) == ("small", "cpu", "f32")
    assert record["sha256"] == fields["file"]["sha256"]
    strict = qsm(*command, "--device", "ort-cpu", "--strict", "--overwrite")  # 4 mm voxels, trained on 0.6 to 1.5
    assert strict.code == 5
    assert "voxel" in strict.err


def test_devices_are_asked_for_by_option(qsm, whole, dataset, recipe, tmp_path) -> None:
    ran = qsm("models", "verify", "small", "--models", whole, "--device", "gpu")
    assert ran.code == 2
    assert "unknown device 'gpu'" in ran.err
    for wrong in (["--device", "cuda:"], ["--precision", "half"], ["--fallback", "tvv"]):
        ran = qsm("run", dataset, "-o", tmp_path / "out", "--recipe", recipe, *wrong)
        assert ran.code == 2, ran.err
        assert wrong[1] in ran.err
    assert not (tmp_path / "out").exists()


def anywhere(folder: Path) -> None:
    """Let the card take any voxels and any B0."""
    fields = json.loads((folder / "small.json").read_text())
    fields["geometry"] |= {"voxel_mm": None, "b0": "any"}
    (folder / "small.json").write_text(json.dumps(fields))


def test_memory_decides_between_the_whole_volume_and_patches(qsm, folder, truth, tmp_path) -> None:
    anywhere(folder)
    local, mask = (truth / f"sub-sim_{name}.nii.gz" for name in ("desc-local_fieldmap", "mask"))
    command = ["invert", local, "--mask", mask, "--method", "network", "--set", "model=small", "--models", folder]
    command += ["--device", "ort-cpu", "--json"]
    whole = qsm(*command, "-o", tmp_path / "whole.nii.gz")
    assert whole.code == 0, whole.err
    line = "inversion: network small 1.0 on onnxruntime's CPU provider, f32, whole volume"
    assert line in whole.err.splitlines()
    assert whole.document["networks"] == [line]
    cut = qsm(*command, "-o", tmp_path / "cut.nii.gz", "--memory-mib", "1.5", "-q")
    assert cut.code == 0, cut.err
    assert "network small 1.0" not in cut.err
    records = [json.loads((tmp_path / name).read_text()) for name in ("whole.json", "cut.json")]
    assert [r.get("NetworkMemoryMiB") for r in records] == [None, 1.5]
    ran = records[1]["ChosenParameters"]["inversion.network"]
    assert ran["patches"] > 1
    assert np.prod(ran["patch"]) * 100 <= 1.5 * 2**20  # bytes a voxel, by its card
    sizes = "x".join(map(str, ran["patch"]))
    assert cut.document["networks"] == [line.replace("whole volume", f"{ran['patches']} patches of {sizes} voxels")]


def test_a_run_says_which_network_ran_where(qsm, folder, dataset, recipe, tmp_path) -> None:
    anywhere(folder)
    command = ["run", dataset, "-o", tmp_path, "--recipe", recipe, "--inversion", "network", "--no-picture", "--json"]
    command += ["--set", "inversion.model=small", "--models", folder, "--device", "ort-cpu"]
    ran = qsm(*command, "--memory-mib", "500")
    assert ran.code == 0, ran.err
    line = "inversion: network small 1.0 on onnxruntime's CPU provider, f32, whole volume"
    assert line in ran.err.splitlines()
    (scan,) = ran.document["scans"]
    assert scan["networks"] == [line]
    sidecar = Path(scan["outputs"]["chi"].replace(".nii.gz", ".json"))
    assert json.loads(sidecar.read_text())["NetworkMemoryMiB"] == 500
    classical = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe, "--overwrite", "--json", "--memory-mib", "500")
    assert classical.document["scans"][0]["networks"] == []
    assert "NetworkMemoryMiB" not in json.loads(sidecar.read_text())  # it decided nothing


def test_a_network_that_was_left_is_not_said_to_have_run(qsm, folder, dataset, recipe, tmp_path) -> None:
    anywhere(folder)
    command = ["run", dataset, "-o", tmp_path, "--recipe", recipe, "--inversion", "network", "--no-picture", "--json"]
    command += ["--set", "inversion.model=small", "--models", folder, "--device", "ort-cpu", "--fallback", "tkd"]
    ran = qsm(*command)  # 4 mm voxels, trained on 0.6 to 1.5
    assert ran.code == 0, ran.err
    assert "inversion by tkd instead of the network" in ran.err
    assert ran.document["scans"][0]["networks"] == []


@pytest.mark.parametrize("command", ["run", "mask", "unwrap", "field", "background", "invert"])
def test_memory_must_be_a_positive_number(qsm, dataset, tmp_path, command: str) -> None:
    for wrong in ("0", "-5", "nan", "inf", "much"):
        ran = qsm(command, dataset, "-o", tmp_path / "out.nii.gz", "--memory-mib", wrong)
        assert ran.code == 2, ran.err
        assert "--memory-mib" in ran.err
    assert not (tmp_path / "out.nii.gz").exists()


PLACES = [
    ({"provider": "openvino", "engine": "openvino 2026.1"}, "OpenVINO on the CPU"),
    ({"provider": "openvino", "engine": "onnxruntime 1.31"}, "onnxruntime's OpenVINO provider on the CPU"),
    (
        {"provider": "cuda", "device_number": 1, "operators": {"cuda": 9, "cpu": 2}},
        "onnxruntime's CUDA provider on GPU 1 (2 of 11 operators elsewhere)",
    ),
    ({"provider": "tensorrt", "operators": {"tensorrt": 1}}, "onnxruntime's TensorRT provider on GPU 0"),
]


@pytest.mark.parametrize(("changed", "place"), PLACES)
def test_where_a_network_ran_is_said_as_it_was_recorded(changed, place: str) -> None:
    about = {
        "model": "net", "version": "2", "provider": "cpu", "engine": "onnxruntime 1.31", "device_number": 0,
        "operators": {}, "precision": "f16", "patches": 8, "patch": [64, 64, 32],
    }  # fmt: skip
    (line,) = networks_said({"mask.network": about | changed, "mask.other": 1})
    assert line == f"mask: network net 2 on {place}, f16, 8 patches of 64x64x32 voxels"
