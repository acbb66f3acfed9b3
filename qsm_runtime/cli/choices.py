"""A recipe as the options on the command line change it."""

from collections.abc import Mapping
from pathlib import Path

from qsm_runtime import recipe as recipes
from qsm_runtime import stages
from qsm_runtime.errors import UsageError
from qsm_runtime.recipe import Recipe

IMAGE_ENDINGS = (".nii", ".nii.gz")


def split_mask(text: str | None) -> tuple[str | None, Path | None]:
    """`--mask` as a method's name or as a file. Raises UsageError where it is neither."""
    if text is None or text in stages.methods("mask"):
        return text, None
    if text.endswith(IMAGE_ENDINGS) or Path(text).exists():
        return None, Path(text)
    raise UsageError(stages.unknown("mask method", text, stages.methods("mask")) + ", or a .nii or .nii.gz file")


def choose(name: str, methods: Mapping[str, str | None], settings: Mapping[str, str]) -> Recipe:
    """The recipe `name` with other methods (stage -> name) and options (`stage.option` -> value).

    Raises UsageError for what does not exist or does not go together.
    """
    recipe = recipes.load(name)
    wanted = {stage: method for stage, method in methods.items() if method is not None}
    two_steps = [f"--{stage}" for stage in ("background", "inversion") if stage in wanted]
    if "single_step" in wanted and two_steps:
        raise UsageError(f"--single-step does the work of {' and '.join(two_steps)}: give one or the other")
    for stage, method in wanted.items():
        recipe = recipe.with_method(stage, method)
    for key, value in settings.items():
        stage, dot, option = key.partition(".")
        if not dot:
            raise UsageError(f"--set takes stage.option=value, got {key}={value}; stages: {', '.join(stages.STAGES)}")
        if stage not in stages.STAGES:
            raise UsageError(stages.unknown("stage", stage, stages.STAGES))
        recipe = recipe.with_option(stage, option, value)
    return recipe
