"""What `qsm bench` is asked to measure, from its options."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsm_runtime.cli import options
from qsm_runtime.errors import UsageError

if TYPE_CHECKING:
    from qsm_runtime.benching.suite import Plan

SIZES = "small,clinical,research"


def planned(
    scan: Path | None,
    select: str | None,
    sizes: str | None,
    recipe: list[str] | None,
    methods: str | None,
    networks: str,
    threads: str | None,
    device: str,
    models: list[Path],
    repeats: int,
    cold_runs: int,
    new_machine: bool,
    limit_s: float,
    budget: bool,
    absent: dict[str, str],
) -> "Plan":
    """The plan of the options, checked. absent: takes the providers that do not run here, and why."""
    from qsm_runtime import recipe as recipes
    from qsm_runtime.benching import suite
    from qsm_runtime.kernels.threads import AVAILABLE

    chosen = recipe or recipes.names()
    for name in chosen:
        recipes.load(name)
    names = _networks(networks, models) if not budget else []
    places = [("cpu", "f32")]
    if names or any(suite.networks_of(name) for name in chosen):
        found, why = suite.available([d.strip() for d in device.split(",")])
        absent |= why
        places = found or places
    counts = _threads(threads, AVAILABLE, budget)
    return suite.Plan(
        _inputs(scan, select, sizes or ("clinical" if budget else SIZES)),
        chosen,
        counts,
        places,
        names,
        [str(m.absolute()) for m in models],
        _methods(methods),
        repeats,
        min(2, repeats),
        limit_s,
        cold_runs,
        new_machine,
        "phantom" if scan is None else "data",
    )


def _inputs(scan: Path | None, select: str | None, sizes: str) -> dict[str, Any]:
    if scan is not None:
        from qsm_runtime.cli.source import Source, find_one

        name = find_one(Source(scan.resolve(), select)).name
        from qsm_runtime.benching.inputs import load

        said = {"folder": str(scan.resolve()), "select": name}
        return {name: (said, load(said).scan.grid.shape)}
    from qsm_runtime.benching.inputs import grid_of, head

    found = {}
    for size in sizes.split() if "@" in sizes else sizes.split(","):
        grid = grid_of(size.strip())
        found[size.strip()] = ({"head": str(head(grid))}, grid.shape)
    return found


def _networks(names: str, folders: list[Path]) -> list[str]:
    from qsm_runtime.networks import registry

    if names == "none":
        return []
    if names != "all":
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        for name in wanted:
            registry.find(name, folders)
        return wanted
    return [f.name for f in registry.every(folders) if f.model is not None and not f.hidden]


def _methods(text: str | None) -> list[tuple[str, str]]:
    from qsm_runtime import stages
    from qsm_runtime.benching import suite

    if not text:
        return []
    known = suite.known_methods()
    if text == "all":
        return known
    wanted = []
    for word in text.split(","):
        stage, _, method = word.strip().partition(".")
        if (stage, method) not in known:
            raise UsageError(stages.unknown("method to measure", word.strip(), [f"{s}.{m}" for s, m in known]))
        wanted.append((stage, method))
    return wanted


def _threads(text: str | None, available: int, budget: bool) -> list[int]:
    if text is None:
        if budget:
            return [available]
        return sorted({2**k for k in range(available.bit_length()) if 2**k <= available} | {available})
    counts = options.numbers(text, "--threads") or ()
    if any(n != int(n) or not 1 <= n <= available for n in counts):
        raise UsageError(f"--threads takes whole numbers from 1 to {available}, got {text}")
    return sorted({int(n) for n in counts})
