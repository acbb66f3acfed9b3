"""What `qsm bench` is asked to measure, from its options."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsm_runtime.cli import options
from qsm_runtime.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from qsm_runtime.benching.plan import Plan

DEVICES = "ort-cpu,openvino,cuda"  # TensorRT builds engines for minutes: only where asked


def planned(
    scan: Path | None,
    select: str | None,
    sizes: str | None,
    recipe: list[str] | None,
    methods: str | None,
    networks: str,
    threads: str | None,
    device: str | None,
    models: list[Path],
    repeats: int,
    cold_runs: int,
    new_machine: bool,
    limit_s: float,
    budget: bool,
) -> "Plan":
    """The plan of the options, checked. Raises UsageError, or DeviceError where a device that was named is not here."""
    from qsm_runtime import recipe as recipes
    from qsm_runtime.benching import plan
    from qsm_runtime.kernels.threads import AVAILABLE

    chosen = recipe or sorted(recipes.names(), key=lambda name: name != "default")  # which runs with every thread count
    for name in chosen:
        recipes.load(name)
    counts, timed = _threads(threads, AVAILABLE, budget), _methods(methods)
    names = _networks(networks, models) if not budget else {}
    tried = None
    if names or device is not None or any(plan.networks_of(name) for name in chosen):
        tried = _tried(device)
    return plan.Plan(
        _inputs(scan, select, sizes or ("clinical" if budget else ",".join(size_names()))),
        chosen,
        counts,
        tried["places"] if tried else [plan.CLASSICAL],
        names,
        [str(m.absolute()) for m in models],
        timed,
        repeats,
        min(2, repeats),
        limit_s,
        cold_runs,
        new_machine,
        "phantom" if scan is None else "data",
        tried,
    )


def size_names() -> list[str]:
    """The named sizes."""
    from qsm_runtime.benching.inputs import SIZES

    return list(SIZES)


def _tried(device: str | None) -> "dict[str, Any]":
    """The providers that run here, of those named or of DEVICES."""
    from qsm_runtime.benching import plan, providers
    from qsm_runtime.stages import unknown

    wanted = [d.strip() for d in (device or DEVICES).split(",") if d.strip()]
    for name in wanted:
        if name not in providers.DEVICES:
            raise UsageError(unknown("device", name, providers.DEVICES))
    found = plan.available(wanted)
    absent = [name for name in wanted if name in found["absent"]]
    if device is not None and absent:
        reasons = "; ".join(f"{name}: {found['absent'][name]}" for name in absent)
        raise DeviceError(f"--device {device} cannot be met: {reasons}. Leave --device out to measure what runs here")
    return found


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


def _networks(names: str, folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """Names of networks, and the precisions that their cards allow."""
    from qsm_runtime.benching.plan import precisions
    from qsm_runtime.networks import registry

    if names == "none":
        return {}
    if names == "all":
        found = [f.model for f in registry.every(folders) if f.model is not None and not f.hidden]
    else:
        found = [registry.find(name.strip(), folders) for name in names.split(",") if name.strip()]
    return {m.card.name: precisions(m.card) for m in found}


def _methods(text: str | None) -> list[tuple[str, str]]:
    from qsm_runtime import stages
    from qsm_runtime.benching import plan

    if not text:
        return []
    known = plan.known_methods()
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
