"""Which network a stage runs: found by its name, and refused where it is for another task."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qsm_runtime.errors import UsageError
from qsm_runtime.networks import registry
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime

if TYPE_CHECKING:
    from qsm_runtime.recipe import Recipe

METHOD = "network"
TASKS: Mapping[str, tuple[str, ...]] = {
    "mask": ("mask",),
    "unwrap": ("unwrap",),
    "background": ("background",),
    "inversion": ("inversion",),
    "single_step": ("single_step", "phase_to_chi"),
}  # of each stage that has the method


def choose(stage: str, name: str, runtime: Runtime | None) -> tuple[Model, Runtime]:
    """The model, and the runtime or its default. Raises UsageError where it is not named or for another task."""
    runtime, tasks = runtime or Runtime(), TASKS[stage]
    if not name:
        usable = [f.name for f in registry.every(runtime.models) if f.model and f.model.card.task in tasks]
        raise UsageError(
            f"method network needs the option model, the name of a network; there are: {', '.join(usable) or 'none'}"
        )
    model = registry.find(name, runtime.models)
    if model.card.task not in tasks:
        raise UsageError(
            f"model {model.card.name} is for the task {model.card.task}, not {' or '.join(tasks)}; "
            "`qsm models list` shows which model does what"
        )
    return model, runtime


def of_recipe(recipe: "Recipe", runtime: Runtime | None) -> dict[str, Model]:
    """The networks of a recipe by stage: errors of `choose`, before a scan is begun."""
    steps = {stage: recipe.steps[stage] for stage in recipe.used}
    return {
        stage: choose(stage, step.options.get("model", ""), runtime)[0]
        for stage, step in steps.items()
        if step.method == METHOD
    }
