"""Finding, checking and adding models."""

import json
from pathlib import Path

import pytest
from small_model import convolutions, fields_of

from qsm_runtime import recipe as recipes
from qsm_runtime.errors import ModelError, OutputError, UsageError
from qsm_runtime.networks import choice, registry
from qsm_runtime.networks.runtime import Runtime


def test_the_given_folder_comes_before_the_users(make_model) -> None:
    path = make_model()
    registry.add(registry.load(path))
    found = registry.find("small", [path.parent])
    assert found.onnx_path == path.with_suffix(".onnx")
    assert registry.find("small").onnx_path.parent == registry.user_folder()
    rows = [f for f in registry.every([path.parent]) if f.name == "small"]
    assert [f.hidden for f in rows] == [False, True]
    assert registry.find(str(path.with_suffix(".onnx"))) == found


def test_a_wrong_name_lists_those_there_are(make_model) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'smal'; did you mean small\?.*searched"):
        registry.find("smal", [make_model().parent])
    with pytest.raises(UsageError, match="no such folder"):
        registry.find("small", [Path("nowhere")])
    with pytest.raises(UsageError, match="unknown model"):
        registry.find("../given/small")


def test_another_file_is_refused_by_its_hash(make_model) -> None:
    path = make_model()
    model = registry.load(path)
    other = convolutions(seed=1)
    model.onnx_path.write_bytes(other)
    with pytest.raises(ModelError, match=f"its sha256 is [0-9a-f]{{64}}, the card says {model.card.file.sha256}"):
        model.read()


def test_a_truncated_file_is_told_from_another(make_model) -> None:
    model = registry.load(make_model())
    data = model.read()
    model.onnx_path.write_bytes(data[:-100])
    with pytest.raises(ModelError, match=rf"truncated or no ONNX file \({len(data) - 100} bytes"):
        model.read()
    model.onnx_path.unlink()
    with pytest.raises(ModelError, match="is missing: the card of small stands alone"):
        model.read()


def test_name_and_file_name_agree(make_model) -> None:
    path = make_model()
    moved = path.with_name("other.json")
    path.rename(moved)
    with pytest.raises(ModelError, match=r"name = 'small', but the file is called other.json"):
        registry.load(moved)


def test_a_bad_card_is_listed_with_its_problem(make_model) -> None:
    path = make_model()
    (path.parent / "bad.json").write_text("{}")
    rows = {f.name: f for f in registry.every([path.parent])}
    assert rows["bad"].model is None
    assert "schema" in rows["bad"].problem
    assert rows["small"].problem == ""


def test_add_copies_all_files_or_none(make_model) -> None:
    model = registry.load(make_model())
    copied = registry.add(model)
    assert sorted(p.name for p in copied) == ["small-0.npz", "small-1.npz", "small.json", "small.onnx"]
    assert registry.find("small").read() == model.read()
    with pytest.raises(OutputError, match="--overwrite"):
        registry.add(model)
    registry.add(model, overwrite=True)
    for path in copied:
        path.unlink()
    model.beside("small-1.npz").unlink()
    with pytest.raises(ModelError, match=r"small-1.npz"):
        registry.add(model)
    assert list(registry.user_folder().iterdir()) == []


def test_a_packaged_name_is_not_taken(make_model, monkeypatch, tmp_path) -> None:
    model = registry.load(make_model())
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "small.json").write_text(json.dumps(fields_of("small", b"")))
    monkeypatch.setattr(registry, "packaged_folder", lambda: tmp_path / "packaged")
    with pytest.raises(ModelError, match="name of a packaged model"):
        registry.add(model)


def test_every_packaged_model_is_whole() -> None:
    for found in registry.every():
        if found.path.parent == registry.packaged_folder():
            assert found.model is not None, found.problem
            assert found.model.read()
            assert all(path.is_file() for path in found.model.paths), found.name


def test_a_recipes_networks_are_found_before_it_runs(make_model) -> None:
    runtime = Runtime(models=(make_model().parent,))
    recipe = recipes.load("fast").with_method("inversion", "network")
    with pytest.raises(UsageError, match=r"needs the option model.*small"):
        choice.of_recipe(recipe, runtime)
    with pytest.raises(UsageError, match="unknown model 'smal'; did you mean small"):
        choice.of_recipe(recipe.with_option("inversion", "model", "smal"), runtime)
    found = choice.of_recipe(recipe.with_option("inversion", "model", "small"), runtime)
    assert {stage: model.card.name for stage, model in found.items()} == {"inversion": "small"}
    wrong = recipes.load("fast").with_method("background", "network").with_option("background", "model", "small")
    with pytest.raises(UsageError, match="small is for the task inversion, not background"):
        choice.of_recipe(wrong, runtime)
    assert choice.of_recipe(recipes.load("fast"), None) == {}
