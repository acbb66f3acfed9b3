"""One method called by hand, outside the pipeline: what it needs is supplied, what it says is collected."""

import inspect
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qsm_runtime import stages
from qsm_runtime.cli.job import software_versions
from qsm_runtime.cli.progress import Progress
from qsm_runtime.errors import QsmWarning, UsageError
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.pipeline import Event
from qsm_runtime.provenance import memory_fields, networks_said
from qsm_runtime.recipe import Step, load

MAY_LACK = ("reliability", "progress", "record", "runtime")  # a method copes without


def step_of(stage: str, method: str | None, settings: Mapping[str, str] | None = None) -> Step:
    """A method with its options checked; None is the default recipe's. Raises UsageError."""
    steps = load("default").steps
    if method is None or (stage in steps and steps[stage].method == method):
        step = steps[stage]
    else:
        stages.method(stage, method)
        step = Step(method)
    given = {name: stages.check_option(stage, step.method, name, text) for name, text in (settings or {}).items()}
    return Step(step.method, {**step.options, **given})


@dataclass
class Calls:
    """The methods called one after another: their settings, warnings and seconds, for the sidecar."""

    progress: Progress
    runtime: Runtime | None = None
    methods: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def networks(self) -> list[str]:
        """A line for each network that ran so far."""
        return networks_said(self.chosen)

    def __call__(self, stage: str, step: Step, arguments: tuple[Any, ...], supply: Mapping[str, Any]) -> Any:
        """Run a method; `supply` holds the reserved keywords that are at hand. Raises UsageError for one that lacks."""
        function = stages.method(stage, step.method)
        start, ran = time.perf_counter(), len(self.networks)

        def report(fraction: float) -> None:
            self.progress.event(Event(stage, step.method, fraction, time.perf_counter() - start))

        own = {
            "progress": report,
            "record": lambda key, value: self.chosen.update({f"{stage}.{key}": value}),
            "runtime": self.runtime,
        }
        at_hand = {key: value for key, value in supply.items() if value is not None} | own
        wanted = stages.supplied(function)
        parameters = inspect.signature(function).parameters
        for name in wanted - set(at_hand) - set(MAY_LACK):
            if parameters[name].default is inspect.Parameter.empty:
                raise UsageError(
                    f"{stage} method {step.method} needs {name}: use it in `qsm run`, or give it by option"
                )
        known = {o.name: o.default for o in stages.options(function).values()}
        self.methods[stage] = {"method": step.method, **known, **step.options}
        extra = {name: at_hand[name] for name in wanted if name in at_hand}
        extra |= dict.fromkeys(wanted & set(MAY_LACK) - set(at_hand))
        report(0.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", QsmWarning)
            result = function(*arguments, **extra, **step.options)
        for text in self.networks[ran:]:
            self.progress.say(text)
        for one in caught:
            self.warn(str(one.message))
        self.seconds[stage] = round(time.perf_counter() - start, 4)
        report(1.0)
        return result

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.warn(text)

    def record(self) -> dict[str, Any]:
        """Fields for a sidecar."""
        return {
            "Options": self.methods,
            "ChosenParameters": self.chosen,
            **memory_fields(self.chosen, self.runtime),
            "SoftwareVersions": software_versions(),
            "Threads": get_threads(),
            "SecondsPerStage": self.seconds,
            "Warnings": self.warnings,
        }
