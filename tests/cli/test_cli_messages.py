"""Messages anywhere in the package name options that exist."""

import ast
import re
from pathlib import Path

import typer

import qsm_runtime
from qsm_runtime.cli.app import app

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")


def strings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_every_option_in_a_message_exists():
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {name for command in commands for option in command.params for name in option.opts} | {
        "--debug",
        "--version",
    }
    package = Path(qsm_runtime.__file__).parent
    named = {
        (path.relative_to(package).as_posix(), option)
        for path in package.rglob("*.py")
        for text in strings(path)
        for option in OPTION.findall(text)
    }
    assert len(named) > 20
    assert sorted((path, option) for path, option in named if option not in known | {"--help"}) == []
