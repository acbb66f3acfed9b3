"""What the wheel holds: every package of the source tree is listed, and every dependency is imported somewhere."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "qsm_runtime").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"qsm_runtime.models"}


def test_exactly_one_onnxruntime_on_any_platform() -> None:
    from packaging.requirements import Requirement

    wanted = [Requirement(d) for d in PROJECT["project"]["dependencies"] if d.startswith("onnxruntime")]
    machines = [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("darwin", "arm64"),
        ("darwin", "x86_64"),
        ("win32", "AMD64"),
    ]
    for system, machine in machines:
        chosen = [r.name for r in wanted if r.marker.evaluate({"sys_platform": system, "platform_machine": machine})]
        assert len(chosen) == 1, (system, machine, chosen)


def test_torch_is_never_imported() -> None:
    for path in (ROOT / "qsm_runtime").rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(("import torch", "from torch")), path
