"""Each check of the doctor on a machine made wrong for it: the fault is named, with its remedy."""

import errno
import socket
from types import SimpleNamespace

import numba
import pyfftw
import pytest

from qsm_runtime import bench
from qsm_runtime.benching import sensors
from qsm_runtime.doctor import Finding, kept, machine, networks, ports, software
from qsm_runtime.kernels import convolve
from qsm_runtime.networks import devices
from qsm_runtime.networks.devices import Gpu
from qsm_runtime.networks.runtime import Runtime


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [f for f in findings if f.name == name]
    return found


def test_no_wisdom(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    found = one(kept.wisdom(), "FFT plans")
    assert found.status == "warning"
    assert str(tmp_path) in found.said
    assert "qsm warmup" in found.remedy


def test_damaged_wisdom(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    (tmp_path / "fftw_wisdom_f32.txt").write_text("no wisdom")
    found = one(kept.wisdom(), "FFT plans")
    assert found.status == "warning"
    assert "damaged" in found.said
    assert "delete it" in found.remedy


def test_wisdom_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    (tmp_path / "fftw_wisdom_f32.txt").write_bytes(pyfftw.export_wisdom()[1])
    assert one(kept.wisdom(), "FFT plans").status == "ok"


def test_cache_that_cannot_be_written(file_as_folder, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(file_as_folder))
    found = one(kept.folders(), "cache")
    assert found.status == "failed"
    assert str(file_as_folder) in found.said
    assert "QSM_CACHE_DIR" in found.remedy


def test_cache_that_is_not_there_yet_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert one(kept.folders(), "cache").status == "ok"
    assert list(tmp_path.iterdir()) == []  # a look leaves nothing behind


def test_disk_that_is_full(monkeypatch):
    monkeypatch.setattr(kept, "LEAST_DISK_MIB", 10**9)
    found = one(kept.folders(), "cache")
    assert (found.status, found.remedy) == ("warning", "free disk space")


def test_jit_cache_that_cannot_be_written(file_as_folder, monkeypatch):
    monkeypatch.setattr(convolve, "multiply", SimpleNamespace(_cache=SimpleNamespace(cache_path=str(file_as_folder))))
    found = one(kept.jit_cache(), "JIT cache")
    assert found.status == "failed"
    assert "NUMBA_CACHE_DIR" in found.remedy


def test_jit_cache_that_is_empty(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(convolve, "multiply", SimpleNamespace(_cache=SimpleNamespace(cache_path=str(tmp_path))))
    found = one(kept.jit_cache(), "JIT cache")
    assert (found.status, found.remedy) == ("warning", "qsm warmup")


def test_jit_switched_off(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    found = one(kept.jit_cache(), "JIT cache")
    assert found.status == "failed"
    assert "NUMBA_DISABLE_JIT" in found.said


def test_fftw_without_threads(monkeypatch):
    monkeypatch.setattr(pyfftw.pyfftw, "_threading_type", None)
    found = one(software.fftw(), "FFTW")
    assert found.status == "failed"
    assert "pip install" in found.remedy
    assert "pyfftw" in found.remedy


def test_fftw_of_double_precision_only(monkeypatch):
    def refused(*arguments, **options):
        raise NotImplementedError("float32 is not supported by this build")

    monkeypatch.setattr(pyfftw, "FFTW", refused)
    found = one(software.fftw(), "FFTW")
    assert found.status == "failed"
    assert "float32" in found.said
    assert "pip install" in found.remedy


def test_fftw_as_it_is():
    assert one(software.fftw(), "FFTW").status == "ok"


def test_a_package_outside_its_range(monkeypatch):
    monkeypatch.setattr(software, "requires", lambda name: ["numpy>=99", "no-such-package>=1"])
    found = one(software.versions(), "versions")
    assert found.status == "failed"
    assert "no-such-package missing" in found.said
    assert found.remedy == "pip install 'numpy>=99' 'no-such-package>=1'"


def test_cpu_without_wide_vectors(monkeypatch):
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"sse2"})
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    found = one(machine.cpu(), "CPU")
    assert found.status == "warning"
    assert "AVX2" in found.said
    assert found.remedy


def test_memory_that_is_short(monkeypatch):
    monkeypatch.setattr(machine, "free_mib", lambda: 100)
    monkeypatch.setattr(machine.bench, "environment", lambda: {"memory_mib": 8192})
    assert "end other programs" in one(machine.memory(), "memory").remedy
    monkeypatch.setattr(machine.bench, "environment", lambda: {"memory_mib": 1024})
    assert "coarser" in one(machine.memory(), "memory").remedy


def test_a_laptop_on_its_battery(tmp_path, monkeypatch):
    for name, kind, said, word in (("AC", "Mains", "online", "0"), ("BAT0", "Battery", "status", "Discharging")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
        (tmp_path / name / said).write_text(f"{word}\n")
    monkeypatch.setattr(sensors, "SUPPLIES", tmp_path)
    assert one(machine.power(), "power").remedy == "plug it in"
    (tmp_path / "AC" / "online").write_text("1\n")
    assert sensors.power()["on_battery"] is False


def test_a_governor_that_saves_power(tmp_path, monkeypatch):
    clock = tmp_path / "cpu0" / "cpufreq"
    clock.mkdir(parents=True)
    (clock / "scaling_governor").write_text("powersave\n")
    (clock / "scaling_driver").write_text("acpi-cpufreq\n")
    monkeypatch.setattr(sensors, "CPUS", tmp_path)
    monkeypatch.setattr(sensors, "SUPPLIES", tmp_path / "none")
    assert "performance" in one(machine.power(), "power").remedy
    (clock / "scaling_driver").write_text("intel_pstate\n")
    assert machine.power() == []


def test_model_with_a_bad_hash(bad_model):
    name = next(bad_model.glob("*.onnx")).stem
    found = one(networks.models(Runtime(models=(bad_model,))), f"model {name}")
    assert found.status == "failed"
    assert "sha256" in found.said
    assert "get the file again" in found.remedy


def test_models_that_are_whole(model_folder):
    assert one(networks.models(Runtime(models=(model_folder,))), "models").status == "ok"


def test_two_wheels_of_onnxruntime(second_wheel, monkeypatch):
    monkeypatch.syspath_prepend(str(second_wheel))
    found = one(software.onnxruntime_wheels(), "onnxruntime")
    assert found.status == "failed"
    assert "onnxruntime and onnxruntime-gpu" in found.said
    assert found.remedy == ("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu")


def test_no_onnxruntime(monkeypatch):
    monkeypatch.setattr(devices, "wheels", lambda: [])
    assert "pip install onnxruntime" in one(software.onnxruntime_wheels(), "onnxruntime").remedy


def test_cuda_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", "libno-such-driver.so")
    found = one(networks.gpu(Runtime("cuda")), "GPU")
    assert found.status == "failed"
    assert "cuda was asked for" in found.said
    assert "install the driver" in found.remedy
    assert one(networks.gpu(Runtime()), "GPU").status == "note"  # nobody asked


@pytest.mark.parametrize(("served", "wanted", "remedy"), [(12040, 13, "driver to 580"), (11080, 12, "driver to 525")])
def test_driver_older_than_onnxruntime_wants(served, wanted, remedy, monkeypatch):
    monkeypatch.setattr(devices, "gpu", lambda number: Gpu("NVIDIA Old", (8, 0), served))
    monkeypatch.setattr(networks, "cuda_of_onnxruntime", lambda: wanted)
    found = one(networks.gpu(Runtime()), "GPU")
    assert found.status == "warning"
    assert f"CUDA {served // 1000}." in found.said
    assert remedy in found.remedy
    assert ("onnxruntime-gpu[cuda,cudnn]" in found.remedy) == (served == 12040)  # an older wheel serves CUDA 12
    assert one(networks.gpu(Runtime("cuda")), "GPU").status == "failed"


def test_driver_and_onnxruntime_that_match(monkeypatch):
    monkeypatch.setattr(devices, "gpu", lambda number: Gpu("NVIDIA New", (9, 0), 13000))
    monkeypatch.setattr(networks, "cuda_of_onnxruntime", lambda: 13)
    assert one(networks.gpu(Runtime()), "GPU").status == "ok"


def test_gpu_with_the_wheel_for_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "gpu", lambda number: Gpu("NVIDIA New", (9, 0), 13000))
    monkeypatch.setattr(networks, "cuda_of_onnxruntime", lambda: None)
    assert one(networks.gpu(Runtime()), "GPU").remedy.endswith("pip install onnxruntime-gpu")


@pytest.mark.parametrize("name", ["MRD", "DICOM", "DICOM's well-known"])
def test_port_that_is_taken(name, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(ports, "PORTS", {**ports.PORTS, name: number})
        found = one(ports.ports(), f"port {name}")
        assert found.status == "warning"
        assert str(number) in found.said
        assert "another port" in found.remedy
    assert one(ports.ports(), f"port {name}").status == "ok"


def test_port_that_is_for_administrators(monkeypatch):
    class Refused(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ports.socket, "socket", Refused)
    found = one(ports.ports(), "port DICOM's well-known")
    assert found.status == "note"
    assert "11112" in found.remedy


def test_providers_are_told_from_a_process_of_their_own():
    assert one(networks.providers(Runtime()), "provider ort-cpu").status == "ok"


def test_a_provider_that_fails_at_every_precision(monkeypatch):
    said = {
        "status": "ok",
        "places": [["ort-cpu", "f32"]],
        "absent": {"openvino f32": "it computes at less; pip x", "openvino bf16": "no", "cuda": "no driver; install"},
    }
    monkeypatch.setattr(bench, "run_child", lambda *a, **k: said)
    found = one(networks.providers(Runtime("openvino")), "provider openvino")
    assert (found.status, found.remedy) == ("failed", "pip x")


def test_onnxruntime_that_takes_its_process_down(monkeypatch):
    crashed = {"status": "crashed", "error": "exit code -11"}
    monkeypatch.setattr(bench, "run_child", lambda *a, **k: crashed)
    (found,) = networks.providers(Runtime())
    assert found.status == "failed"
    assert "reinstall" in found.remedy
