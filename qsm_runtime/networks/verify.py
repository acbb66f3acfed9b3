"""A card's self-test: stored outputs against those of this machine, at two unequal sizes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qsm_runtime.errors import ModelError
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.card_parts import Port, SelfTest
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime

if TYPE_CHECKING:
    from qsm_runtime.networks.session import NetSession

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
CONSTANTS: Mapping[str, float | tuple[float, ...]] = {
    "echo_time": 0.02,
    "b0": 3.0,
    "b0_dir": (0.0, 0.0, 1.0),
    "voxel_mm": (1.0, 1.0, 1.0),
    "pass_index": 0.0,
}


@dataclass(frozen=True)
class Checked:
    """One self-test. error: largest difference over the largest stored value; holds where it is within tolerance."""

    shape: tuple[int, int, int]
    error: float
    tolerance: float
    seconds: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance


def verify(model: Model, runtime: Runtime) -> tuple["NetSession", list[Checked]]:
    """Run every self-test of a model. Raises ModelError for test files that are missing or do not fit."""
    from qsm_runtime.networks.session import open_session

    session = open_session(model, runtime)
    return session, measure(model, session.run)


def measure(model: Model, run: Run) -> list[Checked]:
    """The self-tests by `run`, which takes and gives tensors by name."""
    return [_check(model, run, test) for test in model.card.self_test]


def test_inputs(card: Card, shape: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    """The inputs of a self-test with a seed: the same on every machine and numpy.

    Values are uniform with mean 0 and standard deviation 1; masks are an ellipsoid, single values are typical ones.
    """
    bits = np.random.PCG64(seed)
    return {port.tensor: _test_input(port, shape, bits) for port in card.inputs}


def _test_input(port: Port, shape: tuple[int, int, int], bits: np.random.PCG64) -> np.ndarray:
    voxels = dict(zip("xyz", shape, strict=True))
    if port.meaning in CONSTANTS:
        value = np.asarray(CONSTANTS[port.meaning])
        wanted = tuple(value.size if axis == "c" else 1 for axis in port.axes)
        return np.broadcast_to(value, wanted if port.axes else value.shape).astype(port.dtype)
    wanted = tuple({"n": 1, "c": len(port.parts)}.get(axis) or voxels[axis] for axis in port.axes)
    if port.meaning == "mask":
        steps = [(np.arange(n) + 0.5) * 2 / n - 1 for n in (voxels.get(a, 1) for a in port.axes)]
        distance = sum(s.reshape([-1 if j == i else 1 for j in range(len(steps))]) ** 2 for i, s in enumerate(steps))
        return np.asarray(distance < 0.9).astype(port.dtype)
    count = int(np.prod(wanted, dtype=np.int64))
    uniform = (bits.random_raw(count) >> np.uint64(40)).astype(np.float64) / 2**24
    return ((2 * uniform - 1) * np.sqrt(3)).reshape(wanted).astype(port.dtype)


def _check(model: Model, run: Run, test: SelfTest) -> Checked:
    inputs, expected = stored(model, test)
    start = time.perf_counter()
    outputs = run(inputs)
    seconds = time.perf_counter() - start
    errors = []
    for name, array in expected.items():
        if outputs[name].shape != array.shape:
            raise ModelError(
                f"{test.file}: output {name!r} has shape {array.shape} there, but the network gives "
                f"{outputs[name].shape} for an input of {test.shape}"
            )
        wanted = array.astype(np.float64)
        largest = float(np.abs(wanted).max()) or 1.0
        difference = float(np.abs(outputs[name].astype(np.float64) - wanted).max())
        errors.append(difference / largest if np.isfinite(difference) else np.inf)
    return Checked(test.shape, max(errors), test.tolerance, seconds)


def stored(model: Model, test: SelfTest) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and expected outputs of a self-test by tensor name. Raises ModelError."""
    path, card = model.beside(test.file), model.card
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        remedy = "" if test.seed is None else f"; `qsm models card {card.file.name} --self-test` makes it"
        raise ModelError(f"{path} is missing: the self-test of {card.name} needs it{remedy}") from None
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path}: cannot read the self-test: {error}") from None
    made = {} if test.seed is None else test_inputs(card, test.shape, test.seed)
    inputs = {p.tensor: _array(path.name, arrays, made, f"input.{p.tensor}") for p in card.inputs}
    outputs = {p.tensor: _array(path.name, arrays, {}, f"output.{p.tensor}") for p in card.outputs}
    return inputs, outputs


def _array(file: str, arrays: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    tensor = name.partition(".")[2]
    if name in arrays:
        return arrays[name]
    if tensor in made:
        return made[tensor]
    raise ModelError(f"{file}: no array {name!r}; it holds {', '.join(sorted(arrays)) or 'none'}")
