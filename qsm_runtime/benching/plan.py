"""What is measured: the cases of a run, and the places that there are to run them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsm_runtime import bench
from qsm_runtime import recipe as recipes
from qsm_runtime.benching import providers
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.networks import registry
from qsm_runtime.networks.card import Card

TRIAL_LIMIT_S = 120.0
CLASSICAL = ("cpu", "f32")  # the place of a case without a network, whatever providers are there
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    inputs      size name -> (input of a case, matrix); see inputs.load
    recipes     names or paths of recipes
    threads     counts; the first recipe runs with each, the others with the most
    places      (device, precision) at which networks run; the first is what others are compared with
    models      names of networks -> the precisions that their cards allow
    methods     (stage, method): classical methods on their true input
    repeats     warm runs of a case, shared by `processes` processes
    limit_s     no further run of a process starts after so many seconds
    cold_runs   fresh processes to a first map; 0 leaves cold starts out
    new_machine the first recipe's cold start once more with empty caches: compilation and planning included
    tried       the providers that run here and why others do not, as `available` gives them; None: not tried
    """

    inputs: Mapping[str, tuple[Mapping[str, Any], tuple[int, int, int]]]
    recipes: Sequence[str]
    threads: Sequence[int]
    places: Sequence[tuple[str, str]] = (CLASSICAL,)
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folders: Sequence[str] = ()
    methods: Sequence[tuple[str, str]] = ()
    repeats: int = 6
    processes: int = 2
    limit_s: float = 60.0
    cold_runs: int = 2
    new_machine: bool = False
    source: str = "phantom"
    tried: Mapping[str, Any] | None = None

    def cases(self) -> Iterator[Record]:
        """In the order they are run: cheap and telling ones first."""
        most = max(self.threads)
        for threads in self.threads:
            shapes = [list(padded_shape(shape)) for _, shape in self.inputs.values()]
            yield {"kind": "machine", "threads": threads, "shapes": shapes}
        for size in self.inputs:
            for number, name in enumerate(self.recipes):
                both: Record = {"recipe": name, "size": size, "source": self.source}
                places = [{**both, "device": d, "precision": p} for d, p in self._places(name)]
                for threads in self.threads if number == 0 else (most,):
                    yield from ({"kind": "recipe", **place, "threads": threads} for place in places)
                if self.cold_runs:
                    yield from ({"kind": "cold", **place, "threads": most, "caches": "filled"} for place in places)
                if self.new_machine and number == 0 and size == next(iter(self.inputs)):
                    yield {"kind": "cold", **places[0], "threads": most, "caches": "empty"}
        for size in self.inputs:
            for stage, name in self.methods:
                case = {"kind": "method", "stage": stage, "method": name, "variant": "default", "options": {}}
                yield {**case, "size": size, "source": self.source, "threads": most}
            for name, allowed in self.models.items():
                for device, precision in (place for place in self.places if place[1] in allowed):
                    place: Record = {"device": device, "precision": precision, "threads": most}
                    yield {"kind": "model", "model": name, "size": size, "source": self.source, **place}

    def _places(self, recipe: str) -> list[tuple[str, str]]:
        """Where a recipe runs: one place without networks, else those whose precision all of its cards allow."""
        names = networks_of(recipe)
        allowed = [precisions(registry.find(name, map(Path, self.folders)).card) for name in names]
        return [place for place in self.places if all(place[1] in one for one in allowed)] if names else [CLASSICAL]


def networks_of(recipe: str) -> list[str]:
    """The networks that a recipe runs."""
    made = recipes.load(recipe)
    steps = [made.steps[stage] for stage in made.used]
    return [str(step.options.get("model", "")) for step in steps if step.method == "network"]


def precisions(card: Card) -> tuple[str, ...]:
    """Those that a card says its network was verified at."""
    from qsm_runtime.networks.session import LOWER  # with onnxruntime

    return LOWER[: LOWER.index(card.runtime.precision) + 1]


def available(devices: Sequence[str]) -> dict[str, Any]:
    """places: (device, precision) that really run here, in the order of `devices`; absent: why others do not.

    Each provider is tried in a process of its own: one that takes its process down is absent too.
    """
    found: dict[str, Any] = {"places": [], "absent": {}}
    for device in devices:
        said = bench.run_child([sys.executable, "-m", providers.__name__, device], limit_s=TRIAL_LIMIT_S)
        if said["status"] != "ok":
            found["absent"][device] = f"its process did not survive ({said['error']})"
            continue
        found["places"] += [(d, p) for d, p in said["places"]]
        found["absent"] |= said["absent"]
    return found


def known_methods() -> list[tuple[str, str]]:
    """Every classical method of the stages that give a map."""
    from qsm_runtime import stages
    from qsm_runtime.benching.warm import TASKS

    return [(s, m) for s in TASKS for m in stages.methods(s) if m != "network"]
