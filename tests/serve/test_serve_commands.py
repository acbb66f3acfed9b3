"""The commands of the front ends: what has no meaning is refused, and what was asked for reaches the server."""

import pytest
import typer

from qsm_runtime.cli import serve_dicom, serve_mrd, serve_watch
from qsm_runtime.errors import UsageError
from qsm_runtime.serve import service
from qsm_runtime.serve.keep import Keep

COMMANDS = {"dicom": serve_dicom.dicom, "mrd": serve_mrd.mrd, "watch": serve_watch.watch}


def call(name, *arguments):
    app = typer.Typer()
    app.command(name)(COMMANDS[name])
    return typer.main.get_command(app).main([str(a) for a in arguments], standalone_mode=False)


@pytest.fixture
def front_end(tmp_path, monkeypatch):
    """The front end and the core that a command would serve with."""

    def made(name, *arguments):
        found = []
        monkeypatch.setattr(service, "run_service", lambda fronts, core, *more, **how: found.append((fronts[0], core)))
        (tmp_path / "in").mkdir(exist_ok=True)
        places = {
            "dicom": ["--spool", tmp_path / "spool", "--port", 0],
            "mrd": ["--port", 0],
            "watch": [tmp_path / "in", "--out", tmp_path / "out"],
        }
        call(name, "--quiet", *places[name], *arguments)
        front, core = found[0]
        front.stop()
        return front, core

    return made


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("mrd", ["--port", "70000"], r"--port takes a port from 0 \(any free one\) to 65535, got 70000"),
        ("dicom", ["--spool", "x", "--port", "-1"], r"--port takes a port from 0 \(any free one\) to 65535, got -1"),
        ("mrd", ["--health", "70000"], r"--health takes a port from 0 \(any free one\) to 65535, got 70000"),
        ("mrd", ["--stall-s", "0"], "--stall-s takes seconds above 0"),
        ("dicom", ["--spool", "x", "--keep-days", "0"], "--keep-days takes a number above 0, got 0"),
        ("dicom", ["--spool", "x", "--max-objects", "0"], "--max-objects takes a number above 0, got 0"),
        ("dicom", ["--spool", "x", "--tries", "0"], "--tries takes a number above 0, got 0"),
        ("watch", [".", "--out", "x", "--keep-gib", "nan"], "--keep-gib takes a number above 0, got nan"),
        ("watch", [".", "--out", "x", "--tries", "-1"], "--tries takes a number above 0, got -1"),
        ("mrd", ["--allow-recipe", "quickest"], "unknown recipe"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, monkeypatch, name, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        call(name, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_and_how_often_is_tried_reach_the_front_ends(front_end):
    limits = ["--keep-days", "3", "--keep-gib", "inf", "--tries", "5"]
    node, _ = front_end("dicom", *limits)
    watch, _ = front_end("watch", *limits)
    assert node.spool.limits.keep == watch.rules.keep == Keep(3.0, float("inf"))
    assert node.settings.tries == watch.rules.tries == 5
    assert watch.rules.versions["qsm_runtime"]
    usual = front_end("dicom")[0].spool.limits.keep
    assert usual == front_end("watch")[0].rules.keep == Keep()


def test_recipes_that_may_be_asked_for_reach_the_core_and_the_conversation(front_end):
    server, core = front_end("mrd", "--allow-recipe", "best")
    assert core.recipes == ("default", "fast", "best") == server._listening.rules.recipes
    assert front_end("mrd", "--recipe", "fast")[1].recipes == ("fast",)
