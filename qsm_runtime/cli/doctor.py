"""`qsm doctor`: whether this machine is ready, on one screen."""

from typing import Annotated

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json, print_table

NOT_READY = 8
MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "failed": "FAILED"}


def doctor(
    device: options.Device = "auto",
    precision: options.Precision = "f32",
    models: options.Models = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings also make the exit code 8.")] = False,
    as_json: options.AsJson = False,
) -> int:
    """Is this machine ready: software, caches, providers, GPU, networks, ports; each finding with its remedy.

    Exit code 8 where something does not work.
    """
    from dataclasses import asdict

    runtime = options.runtime(device, precision, models)
    from qsm_runtime import doctor as checks

    findings = checks.examine(runtime)
    bad = [f for f in findings if f.status == "failed" or (strict and f.status == "warning")]
    code = NOT_READY if bad else 0
    if as_json:
        print_json({"ready": not bad, "findings": [asdict(f) for f in findings], "exit_code": code})
        return code
    rows = []
    for f in findings:
        rows.append((MARKS[f.status], f.name, f.said))
        if f.remedy:
            rows.append(("", "", f"-> {f.remedy}"))
    print_table(rows)
    warned = sum(f.status == "warning" for f in findings)
    print(f"\n{'not ready' if bad else 'ready'}: {len(findings)} findings, {warned} warnings, {len(bad)} failed")
    return code
