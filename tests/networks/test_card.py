"""Cards: what is read, and what is refused with a message that names the field."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from small_model import fields_of

from qsm_runtime.errors import ModelError
from qsm_runtime.networks import card as cards

GOOD = fields_of("small", b"x")
DIPOLE = {"dc": 0.0, "order": "fft"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with the value at a path such as inputs.0.unit replaced (or made)."""
    fields = copy.deepcopy(GOOD)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = fields
    for step in way:
        inner = inner[step]
    inner[last] = value
    return fields


def message(fields: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        cards.parse(json.dumps(fields), "small.json")
    assert str(caught.value).startswith("small.json:")
    assert caught.value.exit_code == 6
    return str(caught.value)


def test_a_card_comes_back_from_its_json() -> None:
    card = cards.parse(json.dumps(GOOD), "small.json")
    assert cards.parse(cards.to_json(card), "again") == card
    assert card.inputs[0].parts[0].unit == "ppm"
    assert card.geometry.voxel_mm == (1.0, 1.0, 1.0)
    assert card.self_test[1].shape == (20, 12, 16)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("inputs.0.unit", None, "inputs[0].unit is still to be filled in"),
        ("inputs.0.unit", "ppn", "value of inputs[0].unit 'ppn'; did you mean ppm?"),
        ("inputs.0.unit", "T", "inputs[0].unit = 'T' is no unit of local_field; valid: ppm, ppb, Hz, rad/s, rad"),
        ("inputs.0.sign", 0, "inputs[0].sign = 0 is not one of 1, -1"),
        ("inputs.0.sign", True, "inputs[0].sign = True is not"),
        ("inputs.0.axes", "ncxyy", "inputs[0].axes = 'ncxyy' must name each axis once"),
        ("inputs.0.axis", "ncxyz", "unknown field of inputs[0] 'axis'; did you mean axes?"),
        ("voxel", 1, "unknown field of the card 'voxel'"),
        ("geometry.voxel_mm", [1, 1], "geometry.voxel_mm = [1, 1] is not a list of 3 numbers or null"),
        ("geometry.voxel_mm", [1, "1", 1], "geometry.voxel_mm[1] = '1' is not a number"),
        ("geometry.voxel_mm", [1, 0, 1], "geometry.voxel_mm must be above 0"),
        ("geometry.b0", "in_dipole", "no input has meaning dipole"),
        ("geometry.b0", "input_vector", "no input has meaning b0_dir"),
        ("file.name", "../small.onnx", "file.name = '../small.onnx' must be an .onnx file beside the card"),
        ("file.sha256", "abc", "file.sha256 must be 64 lower-case hexadecimal digits"),
        ("name", "Small Net", "name = 'Small Net': use lower-case"),
        ("schema", "qsm-card/2", "schema = 'qsm-card/2', but this version reads 'qsm-card/1'"),
        ("task", "background", "outputs: task background needs one with meaning local_field or background_field"),
        ("normalisation.inputs", {}, "normalisation.inputs.field is missing: state how it is normalised"),
        ("normalisation.inputs.feild", {"kind": "none"}, "normalisation.inputs.feild is no tensor of the card"),
        ("normalisation.inputs.field.std", 0, "normalisation.inputs.field.std must be above 0"),
        ("normalisation.inputs.field.std", [1, 2], "normalisation.inputs.field.std has 2 values, but the tensor 1"),
        ("normalisation.inputs.field.kind", "atanh", "normalisation.inputs.field.kind = 'atanh' is for outputs only"),
        ("normalisation.mask_before", 1, "normalisation.mask_before = 1 is not true or false"),
        ("size.multiple", 2.5, "size.multiple = 2.5 is not a whole number"),
        ("size.fixed", [16, 16, 18], "size.fixed = [16, 16, 18] must be multiples of size.multiple = 4"),
        ("patching.patch", [16, 16, 18], "patching.patch = [16, 16, 18] must be multiples"),
        ("echoes.combine", "mean", "there is no echo to combine"),
        ("domain.chi_ppm", [1, -1], "domain.chi_ppm = (1.0, -1.0) must be [from, to]"),
        ("runtime.providers", ["gpu"], "value of runtime.providers[0] 'gpu'"),
        ("runtime.providers", [], "runtime.providers is empty"),
        ("self_test", GOOD["self_test"][:1], "self_test must hold two pairs"),
        ("self_test.1.shape", [16, 12, 20], "self_test[1].shape must differ from self_test[0].shape on every axis"),
        ("physics", {"scheme": "proximal_gradient"}, "dipole is null"),
        ("inputs.0.channels", [{"meaning": "chi", "unit": "ppm", "sign": 1}], "channels are for meaning stack only"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, says: str) -> None:
    assert says in message(changed(path, value))


def test_a_missing_field_is_named_with_what_it_takes() -> None:
    fields = copy.deepcopy(GOOD)
    del fields["licence"]["redistributable"]
    assert "licence.redistributable is missing; it takes true or false" in message(fields)


def test_the_card_in_the_docs_is_a_card() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    card = cards.parse(text.partition("```json\n")[2].partition("```")[0], "docs")
    assert (card.name, card.task, card.geometry.b0) == ("net", "inversion", "rotate_to_z")


def test_all_problems_are_told_at_once() -> None:
    fields = changed("title", None)
    fields["geometry"]["resample"] = "spline"
    fields["speed"] = 1
    assert len(message(fields).splitlines()) == 4


def test_physics_wants_its_own_numbers() -> None:
    fields = changed("dipole", DIPOLE)
    fields["physics"] = {"scheme": "proximal_gradient", "passes": 3}
    assert "physics.step is missing: scheme proximal_gradient needs it" in message(fields)
    fields["physics"]["step"] = [1.0, 2.0]
    assert "physics.step must be one number or one for each of the 3 passes" in message(fields)
    fields["physics"]["step"] = 1.5
    assert cards.parse(json.dumps(fields), "x").physics.step == 1.5


def test_a_learned_proximal_network_has_one_ridge_and_no_dc() -> None:
    fields = changed("dipole", DIPOLE | {"dc": 0.0})
    fields["physics"] = {"scheme": "learned_proximal", "passes": 2, "weight": 0.03}
    assert "physics.cg_steps is missing: scheme learned_proximal needs it" in message(fields)
    fields["physics"] |= {"cg_steps": 24, "weight": [0.03, 0.02]}
    assert "physics.weight must be one number" in message(fields)
    fields["physics"]["weight"] = 0.03
    meanings = ("chi", "data_step", "data_gradient", "deviation", "chi_scale")
    parts = [{"meaning": m, "unit": "ppm", "sign": 1} for m in meanings]
    fields["inputs"][0] |= {"meaning": "stack", "unit": "1", "channels": parts}
    assert len(cards.parse(json.dumps(fields), "x").inputs[0].parts) == 5
    fields["dipole"] = DIPOLE | {"dc": 1 / 3}
    assert "dipole.dc must be 0" in message(fields)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "qsm-card/1", "version": NaN}', "null"])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"^small\.json: "):
        cards.parse(text, "small.json")


def test_a_stack_names_its_channels() -> None:
    port = GOOD["outputs"][0] | {"meaning": "stack", "unit": "1"}
    assert "a stack names its two or more channels" in message(changed("outputs.0", port))
    port["channels"] = [
        {"meaning": "chi", "unit": "ppm", "sign": 1},
        {"meaning": "chi_imaginary", "unit": "s", "sign": 1},
    ]
    assert "outputs[0].channels[1].unit = 's' is no unit of chi_imaginary" in message(changed("outputs.0", port))
