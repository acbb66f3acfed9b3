"""Help and completion are quick because nothing heavy is imported for them."""

import subprocess
import sys

HEAVY = ("numpy", "numba", "scipy", "nibabel", "matplotlib", "pyfftw", "onnxruntime", "rich")
PROBE = """
import sys
from qsm_runtime.cli import main
code = main(sys.argv[1:])
loaded = [name for name in {heavy!r} if name in sys.modules]
assert code == 0, code
assert not loaded, loaded
"""


def probe(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_help_lists_every_command_without_heavy_imports():
    out = probe("--help")
    for command in (
        "run", "demo", "phantom", "mask", "unwrap", "field", "background", "invert", "compare", "picture", "methods",
        "recipes", "warmup", "models", "orient",
    ):  # fmt: skip
        assert f"\n  {command} " in out


def test_help_of_a_command_and_the_version():
    assert "--recipe" in probe("run", "--help")
    assert probe("--version").startswith("qsm_runtime ")


def test_nothing_given_shows_the_help():
    assert "Commands" in probe()


def test_the_models_commands_are_listed_without_heavy_imports():
    out = probe("models", "--help")
    for command in ("list", "show", "verify", "add", "card"):
        assert f"\n  {command} " in out
