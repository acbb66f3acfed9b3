"""Recipes: packaged ones load, options are converted and checked, typos are answered with the valid names."""

import inspect
import tomllib

import pytest

from qsm_runtime import recipe, stages
from qsm_runtime.errors import InputError, UsageError

MINIMAL = """
[mask]
method = "threshold"
[offset]
method = "none"
[unwrap]
method = "romeo"
[field]
method = "weighted"
[background]
method = "sharp"
[inversion]
method = "tkd"
[reference]
method = "none"
"""


@pytest.mark.parametrize("name", recipe.names())
def test_packaged_recipes_load_and_describe_themselves(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    assert len(loaded.description) > 10
    table = loaded.as_dict()
    assert ("single_step" in table) != ("inversion" in table)
    for stage, step in loaded.steps.items():
        known = stages.options(stages.method(stage, step.method))
        assert stage not in loaded.used or set(table[stage]) == {"method", *known}


def test_the_promised_recipes_are_there() -> None:
    assert {"fast", "default", "best", "network", "hybrid"} <= set(recipe.names())


def test_methods_and_options_are_replaced_not_changed() -> None:
    base = recipe.parse(MINIMAL, "mine")
    other = base.with_method("background", "vsharp").with_option("background", "radius_mm", "8")
    assert base.steps["background"].method == "sharp"
    assert other.steps["background"].method == "vsharp"
    assert other.steps["background"].options["radius_mm"] == 8.0
    assert other.name == "mine (changed)"


def test_single_step_takes_the_place_of_background_and_inversion() -> None:
    base = recipe.parse(MINIMAL, "mine")
    name = next(iter(stages.methods("single_step")))
    single = base.with_method("single_step", name)
    assert single.used == ("mask", "offset", "unwrap", "field", "single_step", "reference")
    back = single.with_method("background", "lbv")
    assert back.used == ("mask", "offset", "unwrap", "field", "background", "inversion", "reference")
    assert back.steps["inversion"].method == "tkd"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.with_method("background", "vshrap"), "did you mean vsharp"),
        (lambda r: r.with_method("backgruond", "vsharp"), "valid: background"),
        (lambda r: r.with_option("background", "treshold", 1), "threshold"),
        (lambda r: r.with_option("single_step", "iterations", 1), "valid: background"),
        (lambda r: r.with_option("background", "threshold", "thick"), "is not a number"),
        (lambda r: recipe.load("defualt"), "did you mean default"),
        (lambda r: recipe.parse(MINIMAL + "[filter]\nmethod='x'", "m"), "unknown stage 'filter'"),
        (lambda r: recipe.parse("[mask]\nmethod='threshold'", "m"), "no method for: offset"),
        (lambda r: recipe.parse("[mask]\nradius=1", "m"), "needs method"),
    ],
)
def test_typos_are_answered(change, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        change(recipe.parse(MINIMAL, "mine"))


def test_files(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    assert recipe.load(path).steps["inversion"].method == "tkd"
    path.write_text("[mask")
    with pytest.raises(InputError, match="not valid TOML"):
        recipe.load(path)
    with pytest.raises(InputError, match="cannot read"):
        recipe.load(tmp_path / "other.toml")


def test_options_come_from_signatures() -> None:
    def method(x, mask, grid, *, radius_mm: float = 6.0, sizes: tuple[int, ...] = (1, 2), magnitude=None): ...

    found = stages.options(method)
    assert list(found) == ["radius_mm", "sizes"]
    assert stages.supplied(method) == {"magnitude"}
    assert found["radius_mm"].default == 6.0
    assert found["radius_mm"].default is not inspect.Parameter.empty


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (float, "1e-3", 1e-3),
        (int, "7", 7),
        (bool, "true", True),
        (tuple[float, ...], "1,2,3", (1.0, 2.0, 3.0)),
        (float | None, "none", None),
        (str, "a", "a"),
    ],
)
def test_conversion(annotation, text, value) -> None:
    assert stages._convert(annotation, text) == value


@pytest.mark.parametrize(
    ("annotation", "text"), [(int, "1.5"), (float, "x"), (bool, "1"), (tuple[int, int], "1"), (int, True)]
)
def test_conversion_refuses(annotation, text) -> None:
    with pytest.raises((ValueError, TypeError)):
        stages._convert(annotation, text)


def test_recipes_are_valid_toml_when_written_out() -> None:
    assert tomllib.loads(MINIMAL)["mask"]["method"] == "threshold"
