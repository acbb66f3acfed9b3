"""The doctor on machines made wrong on purpose: each fault is named, with its remedy."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numba
import pyfftw
import pytest

from qsm_runtime import doctor
from qsm_runtime.cli import main
from qsm_runtime.doctor import Finding
from qsm_runtime.kernels import convolve
from qsm_runtime.networks import devices, registry
from qsm_runtime.networks.devices import Gpu
from qsm_runtime.networks.runtime import Runtime


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [f for f in findings if f.name == name]
    return found


@pytest.fixture
def file_as_folder(tmp_path: Path) -> Path:
    """A folder that nobody can make or write, root neither: a part of its path is a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of a packaged model."""
    packaged = registry.packaged_folder()
    cards = sorted(packaged.glob("*.json"))
    if not cards:
        pytest.skip("no packaged model")
    for path in packaged.glob(f"{cards[0].stem}*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_no_wisdom(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    found = one(doctor.wisdom(), "FFT plans")
    assert found.status == "warning"
    assert str(tmp_path) in found.said
    assert "qsm warmup" in found.remedy


def test_damaged_wisdom(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    (tmp_path / "fftw_wisdom_f32.txt").write_text("no wisdom")
    found = one(doctor.wisdom(), "FFT plans")
    assert found.status == "warning"
    assert "damaged" in found.said
    assert "delete it" in found.remedy


def test_cache_that_cannot_be_written(file_as_folder, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(file_as_folder))
    found = one(doctor.caches(), "cache")
    assert found.status == "failed"
    assert str(file_as_folder) in found.said
    assert "QSM_CACHE_DIR" in found.remedy


def test_cache_that_is_not_there_yet_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert one(doctor.caches(), "cache").status == "ok"
    assert list(tmp_path.iterdir()) == []  # a look leaves nothing behind


def test_jit_cache_that_cannot_be_written(file_as_folder, monkeypatch):
    monkeypatch.setattr(convolve, "multiply", SimpleNamespace(_cache=SimpleNamespace(cache_path=str(file_as_folder))))
    found = one(doctor.jit_cache(), "JIT cache")
    assert found.status == "failed"
    assert "NUMBA_CACHE_DIR" in found.remedy


def test_jit_cache_that_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(convolve, "multiply", SimpleNamespace(_cache=SimpleNamespace(cache_path=str(tmp_path))))
    found = one(doctor.jit_cache(), "JIT cache")
    assert (found.status, found.remedy) == ("warning", "qsm warmup")


def test_jit_switched_off(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    found = one(doctor.jit_cache(), "JIT cache")
    assert found.status == "failed"
    assert "NUMBA_DISABLE_JIT" in found.said


def test_fftw_without_threads(monkeypatch):
    monkeypatch.setattr(pyfftw.pyfftw, "_threading_type", None)
    found = one(doctor.fftw(), "FFTW")
    assert found.status == "failed"
    assert "pip install" in found.remedy
    assert "pyfftw" in found.remedy


def test_model_with_a_bad_hash(model_folder):
    path = next(model_folder.glob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    found = one(doctor.models(Runtime(models=(model_folder,))), f"model {path.stem}")
    assert found.status == "failed"
    assert "sha256" in found.said or "truncated" in found.said
    assert "get" in found.remedy


def test_models_that_are_whole(model_folder):
    found = one(doctor.models(Runtime(models=(model_folder,))), "models")
    assert found.status == "ok"


def test_two_wheels_of_onnxruntime(tmp_path, monkeypatch):
    there = devices.wheels()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        if name not in there:
            folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = one(doctor.onnxruntime_wheels(), "onnxruntime")
    assert found.status == "failed"
    assert "onnxruntime and onnxruntime-gpu" in found.said
    assert found.remedy == ("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu")


def test_cuda_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", "libno-such-driver.so")
    found = one(doctor.gpu(Runtime("cuda")), "GPU")
    assert found.status == "failed"
    assert "cuda was asked for" in found.said
    assert "install the driver" in found.remedy
    assert one(doctor.gpu(Runtime()), "GPU").status == "note"  # nobody asked


def test_driver_older_than_onnxruntime_wants(monkeypatch):
    monkeypatch.setattr(devices, "gpu", lambda number: Gpu("NVIDIA Old", (8, 0), 12040))
    monkeypatch.setattr(doctor, "_cuda_of_onnxruntime", lambda: 13)
    found = one(doctor.gpu(Runtime()), "GPU")
    assert found.status == "warning"
    assert "CUDA 12.4" in found.said
    assert "driver" in found.remedy
    assert "onnxruntime-gpu" in found.remedy
    assert one(doctor.gpu(Runtime("cuda")), "GPU").status == "failed"


def test_driver_and_onnxruntime_that_match(monkeypatch):
    monkeypatch.setattr(devices, "gpu", lambda number: Gpu("NVIDIA New", (9, 0), 13000))
    monkeypatch.setattr(doctor, "_cuda_of_onnxruntime", lambda: 13)
    assert one(doctor.gpu(Runtime()), "GPU").status == "ok"


def test_port_that_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {"DICOM": number})
        found = one(doctor.ports(), "port DICOM")
        assert found.status == "warning"
        assert str(number) in found.said
        assert "another port" in found.remedy
    assert one(doctor.ports(), "port DICOM").status == "ok"


def test_providers_are_told_from_a_process_of_their_own():
    found = doctor.providers(Runtime())
    assert one(found, "provider ort-cpu").status == "ok"


def test_onnxruntime_that_takes_its_process_down(monkeypatch):
    crashed = {"status": "crashed", "error": "exit code -11"}
    monkeypatch.setattr(doctor.bench, "run_child", lambda *a, **k: crashed)
    (found,) = doctor.providers(Runtime())
    assert found.status == "failed"
    assert "reinstall" in found.remedy


def test_the_command_says_cuda_is_missing_and_exits_8(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what a GPU machine needs to have none
    assert main(["doctor", "--device", "cuda", "--json"]) == 8
    document = json.loads(capsys.readouterr().out)
    assert not document["ready"]
    found = {f["name"]: f for f in document["findings"]}
    assert found["GPU"]["status"] == "failed"
    assert found["provider cuda"]["status"] == "failed"
    assert found["FFT plans"]["status"] == "warning"
    assert all(f["remedy"] for f in document["findings"] if f["status"] in ("warning", "failed"))
