"""Every mistake gets a message that says what to do, the right exit code, and leaves nothing behind."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import qsm_runtime
from qsm_runtime import pipeline

TYPOS = [
    (("--recipe", "fats"), ("best, default, fast", "did you mean fast")),
    (("--background", "vshrp"), ("vsharp", "lbv", "sharp")),
    (("--inversion", "tdk"), ("tkd", "did you mean tkd")),
    (("--single-step", "nope"), ("valid: ",)),
    (("--mask", "brian"), ("brain", "quality", "threshold", ".nii")),
    (("--set", "background.radius=8"), ("radius_mm",)),
    (("--set", "backgruond.radius_mm=8"), ("did you mean background", "inversion")),
    (("--set", "background.radius_mm=big"), ("background.radius_mm", "a number")),
    (("--set", "radius_mm=8"), ("stage.option=value", "background")),
    (("--set", "background"), ("option=value",)),
    (("--save", "locl"), ("did you mean local", "reliability")),
    (("--reference", "region"), ("--region",)),
    (("--region", "r.nii", "--reference", "csf"), ("--region",)),
    (("--recpie", "fast"), ("--recipe",)),
    (("--threads", "10000"), ("threads must lie between",)),
    (("--threads", "two"), ("--threads",)),
    (("--echo-times-ms", "4;9"), ("--echo-times-ms", "commas")),
    (("--b0-dir", "0,1"), ("--b0-dir", "3 numbers")),
    (("--phase-sign", "up"), ("phase", "up")),
    (("--phase-scale", "degrees"), ("degrees", "mrad")),
    (("--single-step", "joint_tv", "--inversion", "tkd"), ("--single-step", "--inversion")),
    (("--magnitude", "a.nii"), ("not both",)),
]


@pytest.mark.parametrize(("given", "said"), TYPOS, ids=lambda v: " ".join(v) if isinstance(v, tuple) else None)
def test_usage_errors_name_what_is_valid(qsm, dataset, recipe, tmp_path, given, said):
    quick = () if "--recipe" in given else ("--recipe", recipe)
    ran = qsm("run", dataset, "-o", tmp_path / "out", *quick, *given)
    assert ran.code == 2, ran.err
    assert all(part in ran.err for part in said), ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("rnu",),
        ("run",),
        ("run", "x"),
        ("mask", "x"),
        ("compare", "a"),
        ("phantom",),
        ("picture",),
        ("background", "f"),
    ],
)
def test_missing_parts_are_usage_errors(qsm, arguments):
    ran = qsm(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


def broken(dataset: Path, folder: Path) -> Path:
    shutil.copytree(dataset / "sub-sim", folder / "sub-sim")
    shutil.copy(dataset / "dataset_description.json", folder)
    return folder / "sub-sim" / "anat"


def drop(path: Path, key: str) -> None:
    fields = json.loads(path.read_text())
    del fields[key]
    path.write_text(json.dumps(fields))


def replace_image(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    old = nib.load(path)
    nib.save(nib.Nifti1Image(array, old.affine if affine is None else affine), path)


def test_exit_codes_of_broken_input(qsm, dataset, recipe, tmp_path):
    def attempt(name: str, *more: object) -> tuple[int, str]:
        ran = qsm("run", tmp_path / name, "-o", tmp_path / "out", "--recipe", recipe, *more)
        assert "Traceback" not in ran.err
        assert ran.out == ""
        return ran.code, ran.err

    anat = broken(dataset, tmp_path / "no_te")
    drop(anat / "sub-sim_echo-2_part-phase_MEGRE.json", "EchoTime")
    drop(anat / "sub-sim_echo-2_part-mag_MEGRE.json", "EchoTime")
    code, said = attempt("no_te")
    assert code == 4
    assert "--echo-times-ms" in said

    anat = broken(dataset, tmp_path / "no_b0")
    for path in anat.glob("*.json"):
        drop(path, "MagneticFieldStrength")
    assert attempt("no_b0")[0] == 4

    anat = broken(dataset, tmp_path / "truncated")
    path = anat / "sub-sim_echo-1_part-phase_MEGRE.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])
    code, said = attempt("truncated")
    assert code == 3
    assert path.name in said

    anat = broken(dataset, tmp_path / "shape")
    replace_image(anat / "sub-sim_echo-1_part-mag_MEGRE.nii.gz", np.ones((40, 48, 39), np.float32))
    assert attempt("shape")[0] == 3

    anat = broken(dataset, tmp_path / "constant")
    for path in anat.glob("*part-phase*.nii.gz"):
        replace_image(path, np.ones((40, 48, 40), np.float32))
    assert attempt("constant")[0] == 3

    anat = broken(dataset, tmp_path / "sheared")
    affine = np.diag([4.0, 4, 4, 1])
    affine[0, 1] = 1.0
    for path in anat.glob("*.nii.gz"):
        replace_image(path, np.asarray(nib.load(path).dataobj), affine)
    code, said = attempt("sheared")
    assert code == 3
    assert "sheared" in said

    assert attempt("no_such_folder")[0] == 3
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.*"))


def test_an_empty_mask_is_refused(qsm, dataset, recipe, tmp_path):
    like = nib.load(dataset / "sub-sim" / "anat" / "sub-sim_echo-1_part-mag_MEGRE.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(like.shape, np.uint8), like.affine), tmp_path / "empty.nii.gz")
    ran = qsm("run", dataset, "-o", tmp_path / "out", "--recipe", recipe, "--mask", tmp_path / "empty.nii.gz")
    assert ran.code in (3, 5)
    assert "empty" in ran.err
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_truncated_recipe_and_other_files(qsm, dataset, tmp_path):
    (tmp_path / "r.toml").write_text("[mask")
    ran = qsm("run", dataset, "-o", tmp_path / "out", "--recipe", tmp_path / "r.toml")
    assert ran.code == 3
    assert "TOML" in ran.err
    (tmp_path / "m.nii.gz").write_bytes(gzip.compress(b"nothing"))
    ran = qsm("compare", tmp_path / "m.nii.gz", tmp_path / "m.nii.gz")
    assert ran.code == 3
    assert "m.nii.gz" in ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_found_out_first(qsm, dataset, recipe, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    ran = qsm("run", dataset, "-o", tmp_path / "out", "--recipe", recipe)
    assert ran.code == 5
    assert "permission" in ran.err
    assert "inversion" not in ran.err


def test_outputs_never_go_into_the_raw_dataset(qsm, dataset, recipe):
    ran = qsm("run", dataset, "-o", dataset, "--recipe", recipe)
    assert ran.code == 5
    assert "derivatives" in ran.err


def test_errors_in_json(qsm, tmp_path):
    for arguments, code in (
        (("run", tmp_path / "none", "-o", tmp_path / "o", "--json"), 3),
        (("run", "--json", "--nonsense"), 2),
        (("methods", "bakground", "--json"), 2),
    ):
        ran = qsm(*arguments)
        assert ran.code == code
        assert ran.document["error"]["exit_code"] == code
        assert ran.document["error"]["message"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_leave_nothing_half_written(qsm, dataset, recipe, tmp_path, monkeypatch, number, code):
    real = nib.Nifti1Header

    def interrupted() -> nib.Nifti1Header:  # in the middle of writing: the second file's header
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return real()

    calls: list[int] = []
    monkeypatch.setattr("qsm_runtime.io.output.nib.Nifti1Header", interrupted)
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe, "--save", "mask,total", "--no-picture")
    assert ran.code == code
    assert len(calls) == 2
    assert "stopped" in ran.err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_memory_and_disk_run_out(qsm, dataset, recipe, tmp_path, monkeypatch):
    def starved(*arguments: object, **named: object) -> None:
        raise MemoryError

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device", "x.nii.gz")

    monkeypatch.setattr(pipeline, "reconstruct", starved)
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe)
    assert ran.code == 5
    assert "memory" in ran.err
    monkeypatch.setattr(pipeline, "reconstruct", full)
    ran = qsm("run", dataset, "-o", tmp_path, "--recipe", recipe)
    assert ran.code == 5
    assert "x.nii.gz: No space left" in ran.err


def test_a_bug_is_called_one(qsm, dataset, recipe, tmp_path, monkeypatch, capsys):
    def bug(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    monkeypatch.setattr(pipeline, "reconstruct", bug)
    with pytest.raises(ZeroDivisionError) as caught:
        qsm("run", dataset, "-o", tmp_path, "--recipe", recipe)
    capsys.readouterr()
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert "this is a bug: ZeroDivisionError: oops" in said
    assert "--debug" in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback_wherever_it_stands(qsm, monkeypatch):
    monkeypatch.setenv("QSM_DEBUG", "")
    ran = qsm("methods", "nope", "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err


@pytest.fixture
def no_cache(tmp_path) -> dict[str, str]:
    """Variables of a process that can keep compiled kernels nowhere: the package lies where none are, and no folder
    for them can be made."""
    copy, blocked = tmp_path / "site" / "qsm_runtime", tmp_path / "file"
    shutil.copytree(Path(qsm_runtime.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(p for p in copy.rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("")  # a file: no folder of that name can be made
    blocked.write_text("")
    (tmp_path / "tmp").mkdir()
    moved = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "QSM_CACHE_DIR"), str(blocked))
    own = {"PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | moved | own | {"TMPDIR": str(tmp_path / "tmp")}


def test_where_no_kernel_can_be_kept_each_start_compiles(no_cache, dataset, tmp_path):
    """A warning with the remedy, the result, and nothing left; QSM_CACHE_DIR is the remedy."""
    output = tmp_path / "mask.nii.gz"
    command = [sys.executable, "-m", "qsm_runtime.cli", "mask", dataset, "-o", output, "--method", "threshold", "-q"]
    done = subprocess.run(command, env=no_cache, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: no cache folder can be written")
    assert "set QSM_CACHE_DIR to a folder that can be written" in done.stderr
    assert nib.load(output).get_fdata().any()
    assert list((tmp_path / "tmp").iterdir()) == []
    ask = (
        "from qsm_runtime.kernels import convolve, threads\n"
        "print(threads.KERNELS_LAST, convolve.multiply._cache.cache_path)"
    )
    kept = no_cache | {"QSM_CACHE_DIR": str(tmp_path / "kept")}
    asked = subprocess.run([sys.executable, "-c", ask], env=kept, capture_output=True, text=True, check=True)
    assert asked.stdout.startswith(f"True {tmp_path / 'kept' / 'numba'}")
    assert asked.stderr == ""


def test_no_temporary_folder_either_is_an_error_with_its_remedy(no_cache, dataset, tmp_path):
    """No folder of tempfile's list can be written, as on a disk that is full."""
    (Path(no_cache["PYTHONPATH"]) / "sitecustomize.py").write_text(
        "import tempfile\n"
        "def mkdtemp(*a, **k): raise FileNotFoundError(2, 'No usable temporary directory found')\n"
        "tempfile.mkdtemp = mkdtemp\n"
    )
    command = [sys.executable, "-m", "qsm_runtime.cli", "mask", dataset, "-o", tmp_path / "mask.nii.gz"]
    done = subprocess.run(command, env=no_cache, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 5, done.stderr
    assert "set QSM_CACHE_DIR" in done.stderr
    assert "bug" not in done.stderr
