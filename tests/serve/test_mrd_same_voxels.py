"""The map that comes back through MRD is the one `qsm run` makes of the same scan, to the bit; and the command."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import typer
from patience import PATIENCE_S
from serve_kit import Head, free_port

from qsm_runtime import load_recipe, pipeline
from qsm_runtime.cli import app as qsm
from qsm_runtime.cli import send_mrd
from qsm_runtime.grid import Grid
from qsm_runtime.io.mrd import writer
from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.phantom import simulate_head
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.mrd_conversation import Conversation, Rules
from qsm_runtime.serve.mrd_server import Listening, MrdServer
from qsm_runtime.serve.settings import Answer
from qsm_runtime.simulated import write_head

RECIPE = "fast"


class HereCore:
    """Reconstructs in this process."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)

    def submit(self, acquisition, study, *, early=None, recipe=None):
        name = recipe or RECIPE

        def work():
            result = pipeline.reconstruct(acquisition.scan, load_recipe(name), mask=acquisition.mask)
            return Answer(result, name, False, {"all_s": 0.0, "overlapped_s": 0.0})

        return self.pool.submit(work)

    def early(self, study, recipe=None):
        return Head()


@pytest.fixture(scope="module")
def core():
    core = HereCore()
    yield core
    core.pool.shutdown()


@pytest.fixture(scope="module")
def server(core):
    server = MrdServer(core, StudyLog(io.StringIO()), Listening(port=0, idle_s=PATIENCE_S, stall_s=PATIENCE_S))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    tilt = (0.2, -0.1, 0.97)
    head = simulate_head(Grid((40, 48, 40), (4.4, 4.4, 4.8), tilt), echo_times_s=(0.006, 0.014), oversample=1)
    write_head(folder, head, "1")
    return folder


@pytest.fixture(scope="module")
def wanted(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert qsm.main(["run", str(dataset), "-o", str(out), "--recipe", RECIPE, "--no-picture", "-q"]) == 0
    return nib.load(out / "sub-1" / "anat" / "sub-1_Chimap.nii.gz")


def send(*arguments):
    command = typer.Typer()
    command.command("mrd")(send_mrd.mrd)
    return typer.main.get_command(command).main([str(a) for a in arguments], standalone_mode=False)


def chi_in(out):
    return nib.load(out / "sub-1" / "anat" / "sub-1_Chimap.nii.gz")


def test_map_is_that_of_run_to_the_bit(server, dataset, wanted, tmp_path, capsys):
    to = f"127.0.0.1:{server.port}"
    assert send(dataset, "--to", to, "-o", tmp_path, "-q", "--json") == 0
    found = chi_in(tmp_path)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(wanted.dataobj))
    np.testing.assert_array_equal(found.affine, wanted.affine)
    document = json.loads(capsys.readouterr().out)
    assert document["originals"] == 2 * 2 * 40
    assert document["data_type"] == "float32"
    sidecar = json.loads((tmp_path / "sub-1" / "anat" / "sub-1_Chimap.json").read_text())
    assert sidecar["Units"] == "ppm"
    assert sidecar["QsmRecipe"] == RECIPE


def test_map_in_12_bits_is_the_same_to_half_a_ppb(server, dataset, wanted, tmp_path):
    assert send(dataset, "--to", f"127.0.0.1:{server.port}", "-o", tmp_path, "-q", "--set", "datatype=uint16") == 0
    found, exact = (np.asanyarray(image.dataobj) for image in (chi_in(tmp_path), wanted))
    inside = np.abs(exact) < 2.0
    assert np.abs(found - exact)[inside].max() <= 0.5e-3 + 1e-6


def test_images_of_12_bits_are_those_of_a_console(server, dataset, wanted, tmp_path):
    """Near the exact map, not equal: the images themselves were rounded, and a voxel at the mask's rim may change."""
    assert send(dataset, "--to", f"127.0.0.1:{server.port}", "-o", tmp_path, "-q", "--data-type", "uint16") == 0
    found, exact = (np.asanyarray(image.dataobj) for image in (chi_in(tmp_path), wanted))
    both = (found != 0) & (exact != 0)
    assert both.sum() > 0.95 * np.count_nonzero(exact)
    assert np.median(np.abs(found - exact)[both]) < 0.005
    assert np.corrcoef(found[both], exact[both])[0, 1] > 0.97


class Bytes:
    """Standard streams of a pipe, as the command sees them."""

    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)

    def isatty(self):
        return False


def test_through_pipes(core, dataset, wanted, tmp_path, monkeypatch):
    out = Bytes()
    monkeypatch.setattr("sys.stdout", out)
    assert send(dataset, "--to", "-", "-q") == 0
    monkeypatch.undo()
    answer = io.BytesIO()
    sent = io.BytesIO(out.buffer.getvalue())
    conversation = Conversation(PipeStream(sent, answer), core, StudyLog(io.StringIO()), Rules())
    assert conversation.hold() == "answered"
    monkeypatch.setattr("sys.stdin", Bytes(answer.getvalue()))
    assert send(dataset, "--stdin", "-o", tmp_path, "-q") == 0
    np.testing.assert_array_equal(np.asanyarray(chi_in(tmp_path).dataobj), np.asanyarray(wanted.dataobj))


def test_a_refusal_is_told(dataset, tmp_path, monkeypatch):
    answer = io.BytesIO()
    writer.write_text(PipeStream(None, answer), "ERR no room")
    writer.write_close(PipeStream(None, answer))
    monkeypatch.setattr("sys.stdin", Bytes(answer.getvalue()))
    with pytest.raises(RuntimeError, match="no map came back: no room"):
        send(dataset, "--stdin", "-o", tmp_path, "-q")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nobody_answers(dataset, tmp_path):
    with pytest.raises(ValueError, match="no server answers there"):
        send(dataset, "--to", f"127.0.0.1:{free_port()}", "-o", tmp_path, "-q")
    for options, said in (
        (["-o", tmp_path], "give --to"),
        (["--to", "here", "-o", tmp_path], "HOST:PORT"),
        (["--to", "127.0.0.1:9"], "no output"),
        (["--to", "127.0.0.1:9", "-o", tmp_path, "--data-type", "int8"], "data type"),
    ):
        with pytest.raises(ValueError, match=said):
            send(dataset, "-q", *options)


def test_a_recipe_that_is_asked_for_gives_the_map_of_run_by_it(core, dataset, tmp_path):
    assert (
        qsm.main(["run", str(dataset), "-o", str(tmp_path / "run"), "--recipe", "default", "--no-picture", "-q"]) == 0
    )
    server = MrdServer(core, StudyLog(io.StringIO()), Listening(port=0, rules=Rules(recipes=(RECIPE, "default"))))
    server.start()
    try:
        assert send(dataset, "--to", f"127.0.0.1:{server.port}", "-o", tmp_path, "-q", "--set", "recipe=default") == 0
    finally:
        server.stop()
    found, exact = chi_in(tmp_path), chi_in(tmp_path / "run")
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(exact.dataobj))
    sidecar = json.loads((tmp_path / "sub-1" / "anat" / "sub-1_Chimap.json").read_text())
    assert sidecar["QsmRecipe"] == "default"
