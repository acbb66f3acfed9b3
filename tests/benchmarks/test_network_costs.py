"""Costs of networks: every record has its accuracy, and what does not run says why."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "networks"))
from small_model import convolutions, fields_of

from benchmarks import network_costs
from qsm_runtime import bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, the same as if with its physics in the graph, and one that is not the same."""
    made = tmp_path_factory.mktemp("models")
    anywhere = {"voxel_mm": None, "tolerance": 0.0, "resample": "none", "b0": "any"}
    for name, seed in (("one", 0), ("one_dft", 0), ("one_matmul", 1)):
        data = convolutions(seed=seed)
        (made / f"{name}.onnx").write_bytes(data)
        (made / f"{name}.json").write_text(json.dumps(fields_of(name, data) | {"geometry": anywhere}))
    return made


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, list[dict]]:
    found = {}
    shared = ["--models", str(folder), "--network", "one", "--threads", "1", "--repeats", "1", "--budget-s", "300"]
    head = "40,48,40@4"
    for mode, device, size in (("whole", "ort-cpu", "24"), ("devices", "ort-cpu", head), ("devices", "cuda:63", head)):
        output = folder / f"{mode}_{device[:4]}.jsonl"
        code = network_costs.main([mode, *shared, "--sizes", size, "--device", device, "-o", str(output)])
        found[output.stem] = bench.read(output)
        assert code == (1 if device == "cuda:63" else 0)
    return found


def test_forms_are_compared_with_the_host(records) -> None:
    host, same, other = records["whole_ort-"]
    assert [r["case"]["form"] for r in (host, same, other)] == ["host", "dft", "matmul"]
    assert host["accuracy"] == {}
    assert same["accuracy"]["relative_difference"] < 1e-6
    assert other["accuracy"]["relative_difference"] > 0.01
    for r in (host, same, other):
        assert 0 < r["network"]["cpu_s"] <= r["time"]["first_cpu_s"] + sum(r["time"]["warm_cpu_s"])
        assert r["memory"]["peak_mib"] > 0
        assert (r["about"]["provider"], r["about"]["precision"]) == ("cpu", "f32")
    said = network_costs.tables([host, same, other])
    assert "| one | 24³ | in the graph, dft | cpu f32 |" in said


def test_devices_are_held_to_the_cpu(records) -> None:
    (here,) = records["devices_ort-"]
    assert here["accuracy"]["largest_difference_ppm"] == 0
    assert here["reference_time"]["median_s"] > 0
    assert "| one | 40,48,40@4 | cpu f32 |" in network_costs.tables([here])


def test_a_device_that_is_not_there_is_a_record(records) -> None:
    (gone,) = records["devices_cuda"]
    assert gone["status"] == "refused"
    assert "cuda:63 cannot be met" in gone["error"]
