"""`qsm doctor` as a command, in a process of its own on a machine made wrong in every way at once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE_S

import qsm_runtime

# a build of FFTW without threads: what pyfftw says of itself
NO_THREADS = "import pyfftw.pyfftw\npyfftw.pyfftw._threading_type = None\n"


def doctor(*words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    command = [sys.executable, "-m", "qsm_runtime.cli", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False)


def test_every_fault_at_once_is_named_with_its_remedy(file_as_folder, bad_model, second_wheel):
    (second_wheel / "sitecustomize.py").write_text(NO_THREADS)
    done = doctor(
        "--json", "--device", "cuda", "--models", str(bad_model),
        QSM_CACHE_DIR=str(file_as_folder), NUMBA_CACHE_DIR=str(file_as_folder), PYTHONPATH=str(second_wheel),
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    document = json.loads(done.stdout)
    assert not document["ready"]
    found = {f["name"]: f for f in document["findings"]}
    name = next(bad_model.glob("*.onnx")).stem
    for part, status, said, remedy in (
        ("FFT plans", "warning", "none kept", "qsm warmup"),
        ("cache", "failed", str(file_as_folder), "QSM_CACHE_DIR"),
        ("JIT cache", "warning", str(file_as_folder), "NUMBA_CACHE_DIR"),
        (f"model {name}", "failed", "sha256", "get the file again"),
        ("GPU", "failed", "cuda was asked for", "--device cuda"),
        ("provider cuda", "failed", "does not run", ""),
        ("FFTW", "failed", "threads: none", "pyfftw"),
        ("onnxruntime", "failed", "onnxruntime and onnxruntime-gpu", "pip uninstall"),
    ):
        assert found[part]["status"] == status, found[part]
        assert said in found[part]["said"], found[part]
        assert remedy in found[part]["remedy"], found[part]
    assert all(f["remedy"] for f in document["findings"] if f["status"] in ("warning", "failed"))


def test_no_folder_at_all_for_compiled_kernels(file_as_folder, tmp_path):
    """Where numba finds none to keep kernels in, every process compiles anew."""
    copy = tmp_path / "site" / "qsm_runtime"
    source = Path(qsm_runtime.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(p for p in copy.rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("")  # a file: no folder of that name can be made
    done = doctor(
        "--json", PYTHONPATH=str(copy.parent), PYTHONSAFEPATH="1", PYTHONDONTWRITEBYTECODE="1",
        HOME=str(file_as_folder), XDG_CACHE_HOME=str(file_as_folder), NUMBA_CACHE_DIR=str(file_as_folder),
        QSM_CACHE_DIR=str(file_as_folder),
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["JIT cache"]["status"] == "failed"
    assert "compiles anew" in found["JIT cache"]["said"]
    assert "NUMBA_CACHE_DIR" in found["JIT cache"]["remedy"]


def test_one_screen(tmp_path):
    done = doctor(QSM_CACHE_DIR=str(tmp_path))
    lines = done.stdout.splitlines()
    assert len(lines) <= 50
    assert lines[-1].startswith(("ready: ", "not ready: "))
    assert doctor("--strict", QSM_CACHE_DIR=str(tmp_path)).returncode == 8  # no plans are kept there: a warning
