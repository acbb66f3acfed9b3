"""Messages anywhere in the package name options that exist."""

import ast
import re
from pathlib import Path

import typer

import qsm_runtime
from qsm_runtime.cli.app import app

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
# of programs that remedies name or that are asked: pip, nvidia-smi, gdcmconv
FOREIGN = {"--force-reinstall", "--no-cache-dir", "--only-binary", "--query-gpu", "--format", "--raw"}


def options(command: object) -> set[str]:
    """Of a command, or of all within a group."""
    found = {name for option in command.params for name in option.opts}  # type: ignore[attr-defined]
    for inner in getattr(command, "commands", {}).values():
        found |= options(inner)
    return found


def strings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_every_option_in_a_message_exists():
    known = options(typer.main.get_command(app)) | FOREIGN
    package = Path(qsm_runtime.__file__).parent
    named = {
        (path.relative_to(package).as_posix(), option)
        for path in package.rglob("*.py")
        for text in strings(path)
        for option in OPTION.findall(text)
    }
    assert len(named) > 20
    assert sorted((path, option) for path, option in named if option not in known | {"--help"}) == []
