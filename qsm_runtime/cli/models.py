"""`qsm models`: networks and their cards."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json, print_table
from qsm_runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    from qsm_runtime.networks.card import Card
    from qsm_runtime.networks.card_parts import Port
    from qsm_runtime.networks.registry import Model
    from qsm_runtime.networks.runtime import Runtime

app = typer.Typer(help="Networks: list, show, verify, add, and cards for new ones.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Its name, or the path of its card or .onnx.")]


@app.command("list")
def list_models(models: options.Models = None, as_json: options.AsJson = False) -> int:
    """The networks on the search path: --models folders, packaged ones, your own."""
    from qsm_runtime.networks import registry

    found = registry.every(models or ())
    if as_json:
        rows = [
            {"name": f.name, "path": f.path, "hidden": f.hidden, "problem": f.problem, **_summary(f.model)}
            for f in found
        ]
        print_json({"models": rows, "folders": registry.folders(models or ())})
        return 0
    print_table([_row(f.model.card, f.hidden) for f in found if f.model is not None])
    for f in found:
        if f.model is None:
            print(f.problem)
    if not found:
        print("no networks in " + ", ".join(str(folder) for folder in registry.folders(models or ())))
    return 0


@app.command("show")
def show(name: Name, models: options.Models = None, as_json: options.AsJson = False) -> int:
    """What a network takes, gives and was trained on."""
    from qsm_runtime.networks import registry
    from qsm_runtime.networks.card import to_dict

    model = registry.find(name, models or ())
    card = model.card
    if as_json:
        print_json({"card": to_dict(card), "path": model.onnx_path})
        return 0
    print(f"{card.name} {card.version}: {card.title}\n{card.citation}\n")
    rows = [("task", card.task), ("file", str(model.onnx_path)), ("sha256", card.file.sha256)]
    rows += [("licence", card.licence.spdx + ("" if card.licence.redistributable else ", not to be passed on"))]
    rows += [("takes", _port(port)) for port in card.inputs] + [("gives", _port(port)) for port in card.outputs]
    voxel = card.geometry.voxel_mm
    rows += [("voxels", "any" if voxel is None else "x".join(f"{v:g}" for v in voxel) + " mm")]
    rows += [("B0", card.geometry.b0), ("sizes", _sizes(card))]
    spans = {key: value for key, value in to_dict(card)["domain"].items() if isinstance(value, list)}
    rows += [(f"trained {key}", f"{lo:g} to {hi:g}") for key, (lo, hi) in spans.items()]
    rows += [("trained on", card.domain.anatomy), ("providers", ", ".join(card.runtime.providers))]
    if card.physics is not None:
        rows += [("physics", f"{card.physics.scheme}, {card.physics.passes} passes")]
    print_table(rows)
    return 0


@app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: every one.")] = None,
    models: options.Models = None,
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> int:
    """Run the self-tests of a network on this machine: hash, tensors, and outputs at two unequal sizes."""
    from qsm_runtime.kernels.threads import set_threads
    from qsm_runtime.networks import registry

    set_threads(threads)
    runtime = options.runtime(device, precision, models)
    if name is not None:
        chosen = [registry.find(name, runtime.models)]
    else:
        found = [f for f in registry.every(runtime.models) if not f.hidden]
        for f in found:
            if f.model is None:
                raise ModelError(f.problem)
        chosen = [f.model for f in found if f.model is not None]
    if not chosen:
        raise UsageError("there is no network to verify; `qsm models list` tells where they are looked for")
    reports = [_verified(model, runtime) for model in chosen]
    failed = [r["name"] for r in reports if not r["holds"]]
    if as_json:
        print_json({"models": reports, "exit_code": ModelError.exit_code if failed else 0})
        return ModelError.exit_code if failed else 0
    for report in reports:
        _print_report(report)
    if failed:
        raise ModelError(
            f"{', '.join(failed)}: the outputs here are not those of the card's self-test; do not use it here"
        )
    return 0


@app.command("add")
def add(
    path: Annotated[Path, typer.Argument(metavar="CARD", help="A card (.json), or the .onnx that it is beside.")],
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Verify a network and copy it, with card and self-tests, to your own folder of networks."""
    from qsm_runtime.networks import registry

    model = registry.load(path)
    report = _verified(model, options.runtime(device, "f32", None))
    if not report["holds"]:
        _print_report(report)
        raise ModelError(f"{model.card.name} was not added: its self-test does not hold on {report['provider']}")
    copied = registry.add(model, overwrite=overwrite)
    if as_json:
        print_json({"added": model.card.name, "paths": copied, "verified": report})
    else:
        for copy in copied:
            print(copy)
    return 0


@app.command("card")
def card(
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: beside the .onnx.")
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="For a finished card: write its self-tests as onnxruntime's own CPU computes them."
        ),
    ] = False,
    overwrite: options.Overwrite = False,
) -> int:
    """Write a draft card for an .onnx: what the file does not say is null, to be filled in."""
    from qsm_runtime.io.atomic import write_files
    from qsm_runtime.networks import registry
    from qsm_runtime.networks.card import parse
    from qsm_runtime.networks.draft import draft, self_tests

    if self_test:
        model = registry.load(path)
        tests = self_tests(model)
        write_files(tests, inputs=[model.onnx_path], overwrite=overwrite)
        for written in tests:
            print(written)
        return 0
    made = draft(path)
    target = output or path.with_name(f"{made['name'] or path.stem}.json")
    text = json.dumps(made, indent=1) + "\n"
    write_files({target: [text.encode()]}, inputs=[path], overwrite=overwrite)
    print(target)
    try:
        parse(text, str(target))
    except ModelError as error:
        print("to be filled in:" + str(error).partition(":")[2])
    return 0


def _verified(model: "Model", runtime: "Runtime") -> dict[str, Any]:
    import warnings

    from qsm_runtime.errors import QsmWarning
    from qsm_runtime.networks.verify import verify as run_self_tests

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QsmWarning)
        session, checked = run_self_tests(model, runtime)
    tests = [
        {
            "shape": c.shape,
            "max_error": c.error,
            "tolerance": c.tolerance,
            "holds": c.holds,
            "seconds": round(c.seconds, 4),
        }
        for c in checked
    ]
    return {
        "name": model.card.name,
        **session.record(),
        "holds": all(c.holds for c in checked),
        "self_test": tests,
        "warnings": [str(w.message) for w in caught],
    }


def _print_report(report: dict[str, Any]) -> None:
    where = f"{report['provider']} {report['precision']}, {report['engine']}"
    print(f"{report['name']} on {where}: {'holds' if report['holds'] else 'does not hold'}")
    for reason in report["passed_over"]:
        print(f"  not used: {reason}")
    for text in report["warnings"]:
        print(f"  warning: {text}")
    print_table(
        [
            (
                "x".join(str(n) for n in t["shape"]),
                f"max error {t['max_error']:.1e}",
                f"tolerance {t['tolerance']:.1e}",
                f"{t['seconds']:.2f} s",
            )
            for t in report["self_test"]
        ],
        "  ",
    )


def _row(card: "Card", hidden: bool) -> tuple[str, ...]:
    title = "(hidden by one of its name before it)" if hidden else card.title
    return (card.name, card.version, card.task, card.licence.spdx, title)


def _summary(model: "Model | None") -> dict[str, Any]:
    if model is None:
        return {}
    card = model.card
    return {
        "version": card.version,
        "task": card.task,
        "title": card.title,
        "licence": card.licence.spdx,
        "redistributable": card.licence.redistributable,
    }


def _port(port: "Port") -> str:
    parts = ", ".join(f"{p.meaning} ({p.unit}{', sign reversed' if p.sign < 0 else ''})" for p in port.parts)
    return f"{parts} as {port.tensor} [{port.axes}]"


def _sizes(card: "Card") -> str:
    size = card.size
    if size.fixed is not None:
        return "x".join(str(n) for n in size.fixed) + " only"
    return f"multiples of {size.multiple}, from {size.min}" + ("" if size.max is None else f" to {size.max}")
