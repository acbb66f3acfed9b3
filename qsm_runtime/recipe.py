"""A recipe: which method with which options at each stage, from a TOML file or built up option by option.

    description = "..."
    [background]
    method = "vsharp"
    radius_mm = 12

With `single_step` in it, a recipe's `background` and `inversion` are idle: they are there for whoever chooses one of
the two instead (`--background lbv`), and need not be.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from qsm_runtime import stages
from qsm_runtime.errors import InputError, UsageError

PACKAGED = "qsm_runtime.recipes"
CHANGED = " (changed)"
TWO_STEPS = ("background", "inversion")


@dataclass(frozen=True)
class Step:
    """One stage's method and the options that differ from its defaults."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A named choice of method and options for each stage; checked when made."""

    name: str
    steps: Mapping[str, Step]
    description: str = ""

    def __post_init__(self) -> None:
        checked = {}
        for stage, step in self.steps.items():
            stages.method(stage, step.method)
            options = {k: stages.check_option(stage, step.method, k, v) for k, v in step.options.items()}
            checked[stage] = Step(step.method, options)
        idle = TWO_STEPS if "single_step" in checked else ("single_step",)
        missing = [s for s in stages.STAGES if s not in checked and s not in idle]
        if missing:
            raise UsageError(f"recipe {self.name} has no method for: {', '.join(missing)}")
        object.__setattr__(self, "steps", checked)

    @property
    def used(self) -> tuple[str, ...]:
        """The stages that run, in order."""
        idle = TWO_STEPS if "single_step" in self.steps else ()
        return tuple(s for s in stages.STAGES if s in self.steps and s not in idle)

    def with_method(self, stage: str, method: str) -> "Recipe":
        """This recipe with another method at one stage, at its defaults. Choosing a background or an inversion method
        drops `single_step`."""
        steps = dict(self.steps)
        if stage not in steps or steps[stage].method != method:
            steps[stage] = Step(method)
        if stage in TWO_STEPS:
            steps.pop("single_step", None)
        return self._changed(steps)

    def with_option(self, stage: str, option: str, value: Any) -> "Recipe":
        """This recipe with one option set. Raises UsageError for a stage that the recipe does not use."""
        if stage not in self.used:
            raise UsageError(stages.unknown("stage of this recipe", stage, self.used))
        step = self.steps[stage]
        steps = {**self.steps, stage: Step(step.method, {**step.options, option: value})}
        return self._changed(steps)

    def _changed(self, steps: Mapping[str, Step]) -> "Recipe":
        if steps == self.steps:
            return self
        return replace(self, name=self.name.removesuffix(CHANGED) + CHANGED, steps=steps)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for TOML, JSON and sidecars: every option, defaults included."""
        out: dict[str, Any] = {"name": self.name, "description": self.description}
        for stage in stages.STAGES:
            if stage in self.used:
                step = self.steps[stage]
                known = stages.options(stages.method(stage, step.method))
                values = {o.name: o.default for o in known.values()} | dict(step.options)
                out[stage] = {"method": step.method, **values}
        return out


def names() -> list[str]:
    """The packaged recipes."""
    return sorted(p.name.removesuffix(".toml") for p in files(PACKAGED).iterdir() if p.name.endswith(".toml"))


def load(name_or_path: str | Path) -> Recipe:
    """A packaged recipe by name, or one from a TOML file. Raises UsageError or InputError."""
    text = str(name_or_path)
    if text in names():
        return parse((files(PACKAGED) / f"{text}.toml").read_text(), text)
    path = Path(text)
    if path.suffix != ".toml":
        raise UsageError(stages.unknown("recipe", text, names()) + ", or the path of a .toml file")
    try:
        return parse(path.read_text(), path.stem)
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe: {error.strerror}") from None


def parse(text: str, name: str) -> Recipe:
    """A recipe from TOML text."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name}: not valid TOML: {error}") from None
    description = table.pop("description", "")
    table.pop("name", None)
    steps = {}
    for stage, values in table.items():
        if stage not in stages.STAGES:
            raise UsageError(f"recipe {name}: " + stages.unknown("stage", stage, stages.STAGES))
        if not isinstance(values, dict) or "method" not in values:
            raise UsageError(f'recipe {name}: [{stage}] needs method = "..."')
        options = {k: v for k, v in values.items() if k != "method"}
        steps[stage] = Step(values["method"], options)
    return Recipe(name, steps, description)
