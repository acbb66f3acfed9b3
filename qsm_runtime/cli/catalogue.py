"""`qsm methods` and `qsm recipes`: what there is to choose from, read from the code itself."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json, print_table


def methods(
    stage: Annotated[
        str | None, typer.Argument(metavar="[STAGE]", help="One stage, with its methods' options.")
    ] = None,
    method: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="One method, with its description.")] = None,
    as_json: options.AsJson = False,
) -> int:
    """The methods of each stage and their options."""
    from qsm_runtime import stages

    if stage is not None and method is not None:
        function = stages.method(stage, method)
        if as_json:
            print_json({"stage": stage, "methods": [_describe(method, function)]})
            return 0
        print(f"{stage} {method}\n\n{inspect.getdoc(function) or ''}\n")
        _print_options(_describe(method, function))
        return 0
    chosen = stages.STAGES if stage is None else (stage,)
    catalogue = {s: [_describe(name, f) for name, f in stages.methods(s).items()] for s in chosen}
    if as_json:
        print_json({"stages": catalogue})
        return 0
    for number, (name, found) in enumerate(catalogue.items()):
        print(("\n" if number else "") + name)
        if stage is None:
            print_table([(m["name"], m["summary"]) for m in found], "  ")
            continue
        for described in found:
            print(f"\n  {described['name']}  {described['summary']}")
            _print_options(described, "    ")
    if stage is None:
        print("\nqsm methods STAGE [METHOD] shows options; use them as --set stage.option=value")
    return 0


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe as TOML.")] = None,
    as_json: options.AsJson = False,
) -> int:
    """The recipes; with a name, that one with every option, to be edited and given to --recipe."""
    from qsm_runtime import recipe

    if name is not None:
        found = recipe.load(name).as_dict()
        if as_json:
            print_json({"recipe": found})
        else:
            print(to_toml(found))
        return 0
    every = [recipe.load(known).as_dict() for known in recipe.names()]
    if as_json:
        print_json({"recipes": every})
    else:
        print_table([(known["name"], known["description"]) for known in every])
    return 0


def to_toml(recipe: Mapping[str, Any]) -> str:
    """A recipe's plain values as TOML; options that are None, which TOML cannot say, stand as comments."""
    lines = [f"description = {_toml(recipe.get('description', ''))}"]
    for stage, values in recipe.items():
        if isinstance(values, Mapping):
            lines.append(f"\n[{stage}]")
            lines += [f"{'# ' if v is None else ''}{k} = {_toml(v)}" for k, v in values.items()]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return "none" if value is None else repr(value)


def _describe(name: str, function: Any) -> dict[str, Any]:
    from qsm_runtime import stages

    doc = (inspect.getdoc(function) or "").split("\n\n")[0]
    found = []
    for option in stages.options(function).values():
        required = option.default is inspect.Parameter.empty
        found.append(
            {
                "name": option.name,
                "takes": stages.describe(option.annotation),
                "required": required,
                "default": None if required else option.default,
            }
        )
    return {"name": name, "summary": " ".join(doc.split()), "options": found}


def _print_options(described: Mapping[str, Any], indent: str = "") -> None:
    rows = []
    for option in described["options"]:
        default = "must be given" if option["required"] else f"default {_shown(option['default'])}"
        rows.append((option["name"], default, option["takes"]))
    if rows:
        print_table(rows, indent)
    else:
        print(f"{indent}no options")


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(_shown(v) for v in value)
    return "none" if value is None else str(value)
