"""Sessions of onnxruntime: opened for a model on a provider, checked against the card, kept for the next run.

All are made and run on one thread of their own (see engines.worker), which leaves the caller free to be interrupted.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from qsm_runtime.errors import DeviceError, ModelError, ReconstructionError
from qsm_runtime.kernels.threads import get_threads
from qsm_runtime.networks import engines, providers
from qsm_runtime.networks.onnx_file import truncated
from qsm_runtime.networks.openvino_direct import OpenVinoSession
from qsm_runtime.networks.providers import Choice
from qsm_runtime.networks.registry import Model
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.networks.tensors import check_array, check_ports, named
from qsm_runtime.networks.verify import measure

AnySession: TypeAlias = ort.InferenceSession | OpenVinoSession
MAX_SESSIONS = 4
LOWER = ("f32", "tf32", "f16", "bf16")  # ever coarser
_trials: dict[tuple[Any, ...], str] = {}
_open: OrderedDict[tuple[Any, ...], "NetSession"] = OrderedDict()


class NetSession:
    """A model ready to run. With `with`, a session of mode once gives its memory back at the end.

    provider   cpu, openvino, cuda, tensorrt
    precision  as it was asked for, and as the provider was seen to keep
    """

    def __init__(self, model: Model, session: AnySession, choice: Choice, key: tuple[Any, ...]) -> None:
        self.model, self.provider, self.precision = model, choice.provider, choice.precision
        self._session, self._choice, self._key = session, choice, key
        self._inputs = {node.name: node for node in session.get_inputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the card by tensor name; inputs of the graph's own types and axes.

        Raises ModelError for tensors that do not fit, MemoryError where memory is short, ReconstructionError.
        """
        for name, node in self._inputs.items():
            if name not in inputs:
                raise ModelError(f"model {self.model.card.name}: input {name!r} was not given")
            check_array(self.model.card.name, node, inputs[name])
        for name in inputs:
            if name not in self._inputs:
                raise ModelError(f"model {self.model.card.name}: no input {name!r}, only {named(self._inputs)}")
        options = ort.RunOptions()
        future = engines.worker.submit(self._run, inputs, options)
        try:
            return future.result()
        except KeyboardInterrupt:
            options.terminate = True  # or the process would not end before the network does
            if isinstance(self._session, OpenVinoSession):
                self._session.cancel()
            raise

    def _run(self, inputs: Mapping[str, np.ndarray], options: ort.RunOptions) -> dict[str, np.ndarray]:
        wanted = [port.tensor for port in self.model.card.outputs]
        try:
            if isinstance(self._session, OpenVinoSession):
                return dict(zip(wanted, self._session.run(wanted, inputs), strict=True))
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in wanted:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding, options)
            return dict(zip(wanted, binding.copy_outputs_to_cpu(), strict=True))
        except engines.ERRORS as error:
            text = str(error)
            if "allocate" in text or "out of memory" in text.lower() or "bad_alloc" in text:
                raise MemoryError(f"model {self.model.card.name} on {self.provider}: {text}") from None
            said = engines.first_line(error)
            raise ReconstructionError(f"model {self.model.card.name} failed on {self.provider}: {said}") from None

    def record(self) -> dict[str, Any]:
        """What ran where: for the sidecar."""
        card = self.model.card
        return {
            "model": card.name,
            "version": card.version,
            "sha256": card.file.sha256,
            "provider": self.provider,
            "device_number": self._choice.number,
            "precision": self.precision,
            "engine": engines.engine(self.provider),
            "operators": engines.placed(self._session, self.provider),
            "threads": get_threads(),
            "passed_over": list(self._choice.passed_over),
        }

    def close(self) -> None:
        """Give its memory back; it cannot run again."""
        _open.pop(self._key, None)
        self._inputs.clear()  # they keep the session alive
        del self._session

    def __enter__(self) -> "NetSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._key[-1] == "once":
            self.close()


def open_session(model: Model, runtime: Runtime) -> NetSession:
    """A session of `model` where and as `runtime` says; the same one again for the same file, provider and precision.

    Raises DeviceError for a device that cannot be had, ModelError for a file, hash or tensor that is not the card's.
    """
    card = model.card
    if LOWER.index(runtime.precision) > LOWER.index(card.runtime.precision):
        raise ModelError(
            f"model {card.name} was not verified below {card.runtime.precision} (its card's runtime.precision); "
            f"leave out --precision {runtime.precision}"
        )
    choice = providers.choose(runtime, card, lambda unlisted: _trial(model, unlisted, runtime))
    return _opened(model, choice, runtime)


def _opened(model: Model, choice: Choice, runtime: Runtime) -> NetSession:
    key = (model.card.file.sha256, model.onnx_path, choice, get_threads(), runtime.memory_mib, runtime.mode)
    if key in _open and _open[key].model == model:
        _open.move_to_end(key)
        return _open[key]
    made = _make(model, choice, runtime)
    check_ports(model, made.get_inputs(), made.get_outputs())
    session = _open[key] = NetSession(model, made, choice, key)
    while len(_open) > MAX_SESSIONS:
        _open.popitem(last=False)
    return session


def _trial(model: Model, choice: Choice, runtime: Runtime) -> str:
    """The card's self-test on a provider that the card does not list: what speaks against it."""
    key = (model.onnx_path, model.card.file.sha256, choice.provider, choice.number, choice.precision)
    if key not in _trials:
        model.read()  # a damaged file is no provider's fault
        try:
            checked = measure(model, _opened(model, choice, runtime).run)
            worst = max(checked, key=lambda c: c.error / c.tolerance)
            bad = f"the self-test of {model.card.name} fails there (error {worst.error:.1e}, not {worst.tolerance:.1e})"
            _trials[key] = "" if worst.holds else bad
        except (ModelError, DeviceError, ReconstructionError) as error:
            _trials[key] = f"its card does not list it, and its self-test cannot be run there ({error})"
    return _trials[key]


def describe(data: bytes, name: str) -> tuple[list[ort.NodeArg], list[ort.NodeArg]]:
    """Inputs and outputs of a graph that has no card yet. Raises ModelError."""
    settings = engines.session_options()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = engines.worker.submit(
            ort.InferenceSession, data, settings, providers=[engines.NATIVE["cpu"]]
        ).result()
    except engines.ERRORS as error:
        raise ModelError(f"{name}: {engines.first_line(error)}") from None
    return session.get_inputs(), session.get_outputs()


def _make(model: Model, choice: Choice, runtime: Runtime) -> AnySession:
    data, server = model.read(), runtime.mode == "server"
    folder = None
    if choice.provider == "tensorrt":
        folder = engines.engine_folder(model.card.file.sha256, choice.number, choice.precision)
    settings = engines.session_options()
    try:
        session = engines.worker.submit(
            engines.make_session, data, settings, choice.provider, choice.number, choice.precision, folder=folder,
            server=server, memory_mib=runtime.memory_mib,
        ).result()  # fmt: skip
    except engines.ERRORS as error:
        said = engines.first_line(error)
        if truncated(data):
            said = f"the file is truncated or no ONNX file ({said})"
        raise ModelError(f"{model.onnx_path}: {choice.provider} does not take it: {said}") from None
    counts = engines.placed(session, choice.provider)
    if counts and choice.provider not in counts:
        raise DeviceError(f"model {model.card.name}: none of it would run on {choice.provider}, but on {named(counts)}")
    return session
