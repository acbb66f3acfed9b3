"""`qsm serve`: options, refusals, and real servers in processes of their own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from patience import PATIENCE_S, until
from test_cli_light import probe

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
WARM_S = 2 * PATIENCE_S  # a first start compiles everything


def test_help_lists_the_front_ends_without_heavy_imports():
    listed = probe("serve", "--help")
    assert all(f"\n  {name} " in listed for name in ("dicom", "mrd", "watch"))
    out = probe("serve", "watch", "--help")
    for option in (
        "--out", "--format", "--settle-s", "--give-up-s", "--recipe", "--cheaper", "--deadline-s", "--threads",
        "--queue", "--health", "--log", "--device", "--drain-s", "--quiet", "--json",
    ):  # fmt: skip
        assert option in out


@pytest.mark.parametrize("page", ["serve.md", "watch.md"])
def test_the_pages_name_options_that_exist(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    known = probe("serve", "watch", "--help") + probe("warmup", "--help")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert len(named) > 4
    assert [option for option in sorted(named) if option not in known] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{in}"], 2, "give a folder with --out"),
        (["{in}", "--out", "{in}/maps"], 2, "lies in the watched folder"),
        (["{in}", "--out", "{in}"], 2, "lies in the watched folder"),
        (["{in}/nowhere", "--out", "{out}"], 3, "no such folder"),
        (["{in}", "--out", "{out}", "--format", "png"], 2, "nifti, dicom, both"),
        (["{in}", "--out", "{out}", "--settle-s", "0"], 2, "--settle-s takes seconds above 0"),
        (["{in}", "--out", "{out}", "--settle-s", "nan"], 2, "--settle-s takes seconds above 0"),
        (["{in}", "--out", "{out}", "--give-up-s", "5"], 2, "shorter than --settle-s"),
        (["{in}", "--out", "{out}", "--deadline-s", "-1"], 2, "--deadline-s takes seconds above 0"),
        (["{in}", "--out", "{out}", "--recipe", "fast", "--deadline-s", "9"], 2, "needs another recipe"),
        (["{in}", "--out", "{out}", "--recipe", "quickest"], 2, "quickest"),
        (["{in}", "--out", "{out}", "--cheaper", "quickest"], 2, "quickest"),
        (["{in}", "--out", "{out}", "--queue", "0"], 2, "--queue takes"),
        (["{in}", "--out", "{out}", "--health", "99999"], 2, "--health takes a port"),
        (["{in}", "--out", "{out}", "--shape", "10,20"], 2, "--shape"),
        (["{in}", "--out", "{out}", "--shape", "10,20,0.5"], 2, "whole numbers"),
        (["{in}", "--out", "{out}", "--device", "abacus"], 2, "abacus"),
        (["{in}", "--out", "{out}", "--drain-s", "-1"], 2, "--drain-s takes"),
        (["{in}", "--out", "{out}", "--log", "{in}"], 2, "is a folder"),
        (["{in}", "--out", "{out}", "--log", "{in}/nowhere/log"], 5, "no log there"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(qsm, tmp_path, arguments, code, said):
    (tmp_path / "in").mkdir()
    places = {"in": tmp_path / "in", "out": tmp_path / "out"}
    ran = qsm("serve", "watch", *(argument.format(**places) for argument in arguments))
    assert ran.code == code, ran.err
    assert said in ran.err
    assert list((tmp_path / "in").glob("w*/*_*")) == []


def test_what_libraries_warn_of_headers_is_not_shown(qsm, tmp_path, monkeypatch):
    from qsm_runtime.serve import service

    (tmp_path / "in").mkdir()
    ran = []

    def run_service(*arguments, **options):
        warnings.warn("Invalid value for VR PN: 'SMITH^JOHN'", UserWarning, stacklevel=1)
        ran.append(arguments)

    monkeypatch.setattr(service, "run_service", run_service)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        said = qsm("serve", "watch", tmp_path / "in", "--out", tmp_path / "out")
    assert said.code == 0
    assert len(ran) == 1
    assert shown == []


class Server:
    """`qsm serve watch` in a process of its own, ready."""

    def __init__(self, root: Path, recipe: Path):
        self.root, self.inbox, self.out = root, root / "in", root / "out"
        self.inbox.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "qsm_runtime.cli", "serve", "watch", str(self.inbox), "--out", str(self.out)]
        command += ["--recipe", str(recipe), "--cheaper", str(recipe), "--settle-s", "0.5", "--poll-s", "0.1"]
        command += ["--give-up-s", str(PATIENCE_S), "--drain-s", str(PATIENCE_S), "--health", "0"]
        command += ["--shape", "40,48,40", "--log", str(root / "log"), "--json"]
        where = {**os.environ, "QSM_DATA_DIR": str(root / "data")}
        self.said = open(root / "said", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=self.said, stderr=subprocess.STDOUT, env=where, start_new_session=True
        )

    def __enter__(self):
        until(lambda: "ready: watch" in self.text() or self.process.poll() is not None, self.text, WARM_S)
        assert self.process.poll() is None, self.text()
        self.document = json.loads(self.text()[self.text().index("{") : self.text().rindex("}") + 1])
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.said.close()

    def text(self):
        return (self.root / "said").read_text()

    def events(self):
        return [json.loads(line) for line in (self.root / "log").read_text().splitlines()]

    def status(self):
        with urllib.request.urlopen(f"{self.document['health']}/status", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def until(self, true):
        return until(true, lambda: f"{self.text()}\n{(self.root / 'log').read_text()}")

    def ended(self, where, count=1):
        folder = self.inbox / where
        return self.until(lambda: (f := sorted(folder.glob("[!.]*"))) and len(f) >= count and f)

    def drop(self, dataset, name):
        shutil.copytree(dataset / "sub-sim", self.root / "copy" / "sub-sim")
        os.rename(self.root / "copy", self.inbox / name)


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@posix
def test_a_watched_folder_through_kill_9_restart_and_sigterm(tmp_path, dataset, recipe, reconstructed):
    with Server(tmp_path, recipe) as server:
        assert server.document["ready"] is True
        assert server.document["pid"] == server.process.pid
        worker = server.document["core"]["worker_pid"]
        server.drop(dataset, "first")
        (done,) = server.ended("done")
        (got,) = server.out.rglob("*_Chimap.nii.gz")
        wanted = nib.load(reconstructed / "sub-sim_Chimap.nii.gz")
        np.testing.assert_array_equal(nib.load(got).get_fdata(), wanted.get_fdata())  # to the bit
        np.testing.assert_array_equal(nib.load(got).affine, wanted.affine)
        assert json.loads((done / "study.json").read_text())["scans"][0]["core"]["attempts"] == 1
        assert server.status()["front_ends"]["watch"]["done"] == 1

        server.drop(dataset, "second")
        server.until(lambda: server.status()["front_ends"]["watch"]["working"])
        server.process.kill()
        server.process.wait()
        server.until(lambda: not alive(worker))  # a worker without its server ends
        assert len(list((server.inbox / "working").glob("*second"))) == 1
        assert len(list(server.out.glob("[!.]*"))) == 1

    with Server(tmp_path, recipe) as server:
        second = server.ended("done", 2)[1]
        assert json.loads((second / "study.json").read_text())["tries"] == 2
        worker = server.document["core"]["worker_pid"]
        server.drop(dataset, "third")
        server.until(lambda: server.status()["front_ends"]["watch"]["working"])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        assert not alive(worker)
    assert len(list((server.inbox / "done").glob("*third"))) == 1  # what was at work was finished
    assert len(list(server.out.rglob("*_Chimap.nii.gz"))) == 3
    assert "sub-sim" not in (tmp_path / "log").read_text()
    assert server.events()[-1]["event"] == "service.stopped"
