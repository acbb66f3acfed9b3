"""The OpenRecon label against the published schema, the server and the container files."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from qsm_runtime.cli import serve_mrd
from qsm_runtime.io.mrd.parameters import IGNORED, READERS, Parameters, parameters_of, recipe_name
from qsm_runtime.serve.settings import Settings

jsonschema = pytest.importorskip("jsonschema")

FOLDER = Path(__file__).parents[3] / "openrecon"
SCHEMA = json.loads((Path(__file__).parent / "openrecon_schema.json").read_text())
LABEL = json.loads((FOLDER / "label.json").read_text())
CONTAINERS = ("Containerfile", "Containerfile.cuda")
LABEL_NAME = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"


def invalid(label):
    return list(jsonschema.Draft7Validator(SCHEMA).iter_errors(label))


def test_label_holds_to_the_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert not invalid(LABEL)
    assert len(LABEL["parameters"]) <= 14


@pytest.mark.parametrize(
    "spoil",
    [
        lambda label: label["parameters"].extend({**label["parameters"][1], "id": f"more{i}"} for i in range(14)),
        lambda label: label["parameters"][0].update(id="send_original"),
        lambda label: label["parameters"][0].pop("default"),
        lambda label: label["parameters"][3]["unit"].update(en="parts"),
        lambda label: label["reconstruction"].update(emitter="images"),
        lambda label: label["general"].update(version="1"),
        lambda label: label["general"].pop("regulatory_information"),
        lambda label: label.update(more=1),
    ],
)
def test_the_schema_refuses_what_is_wrong(spoil):
    label = json.loads(json.dumps(LABEL))
    spoil(label)
    assert invalid(label)


def test_label_names_this_version():
    general = LABEL["general"]
    assert general["version"] == version("qsm_runtime")
    assert general["regulatory_information"]["production_identifier"] == general["version"]
    assert general["regulatory_information"]["material_number"].endswith(general["version"])


def test_the_server_knows_every_parameter_and_its_defaults_are_the_servers():
    given = {one["id"]: one["default"] for one in LABEL["parameters"]}
    assert set(given) <= set(READERS) | set(IGNORED)
    found, said = parameters_of(json.dumps({"version": "1.1.0", "parameters": given}))
    assert found == Parameters()
    assert not said


def test_the_server_takes_every_choice():
    for one in LABEL["parameters"]:
        for value in one.get("values", []):
            _, said = parameters_of(json.dumps({"parameters": {one["id"]: value["id"]}}))
            assert not said
        assert one["default"] in {v["id"] for v in one["values"]} if "values" in one else True


def instructions(name):
    """Instructions of a container file, their lines joined, comments left out."""
    lines = [line for line in (FOLDER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_files(name):
    found = instructions(name)
    known = {"FROM", "ENV", "COPY", "RUN", "ARG", "LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}
    assert {word for word, _ in found} <= known
    assert found[0][0] == "FROM"
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", found[0][1]), "the base image has no version"
    (command,) = [json.loads(rest) for word, rest in found if word == "CMD"]
    assert command[:3] == ["qsm", "serve", "mrd"]
    app = typer.Typer()
    app.command("mrd")(serve_mrd.mrd)
    options = {text for p in typer.main.get_command(app).params for text in p.opts}
    assert {word for word in command if word.startswith("--")} <= options
    assert command[command.index("--host") + 1] == "0.0.0.0"
    assert command[command.index("--port") + 1] == str(LABEL["reconstruction"]["port"])
    assert str(LABEL["reconstruction"]["port"]) in {rest for word, rest in found if word == "EXPOSE"}
    (health,) = [rest for word, rest in found if word == "HEALTHCHECK"]
    probe = json.loads(health[health.index("[") :])
    compile(probe[2], "HEALTHCHECK", "exec")
    assert f":{command[command.index('--health') + 1]}/ready" in probe[2]
    assert ("STOPSIGNAL", "SIGTERM") in {tuple(one) for one in found}


def test_the_cpu_image_carries_the_label():
    labels = [rest for word, rest in instructions("Containerfile") if word == "LABEL"]
    assert labels == [f'"{LABEL_NAME}"="${{LABEL_BASE64}}"']
    assert not LABEL["reconstruction"]["can_use_gpu"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_recipe_of_the_label_is_one_that_the_image_grants(name):
    (command,) = [json.loads(rest) for word, rest in instructions(name) if word == "CMD"]
    given = [command[i + 1] for i, word in enumerate(command) if word in ("--recipe", "--cheaper", "--allow-recipe")]
    allowed = Settings(recipe=given[0], allowed=tuple(given[1:])).named
    (choice,) = [one for one in LABEL["parameters"] if one["id"] == "recipe"]
    wishes = {recipe_name(value["id"]) for value in choice["values"]}
    assert wishes - {""} <= set(allowed)
    assert recipe_name(choice["default"]) == ""
