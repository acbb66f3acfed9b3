"""OpenVINO's own runtime, for processors that its onnxruntime plugin does not serve. The plugin offers Intel's only;
on AMD's the runtime works too, in half the time of onnxruntime's own provider.

The only importer of openvino. A session here answers the calls of an onnxruntime session that are used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

TYPES = {
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
    "bf16": "tensor(bfloat16)",
    "f64": "tensor(double)",
    "i64": "tensor(int64)",
    "i32": "tensor(int32)",
    "u8": "tensor(uint8)",
    "boolean": "tensor(bool)",
}


@dataclass(frozen=True)
class Node:
    """A tensor of the graph, as onnxruntime's NodeArg names things; sizes that are free are texts."""

    name: str
    type: str
    shape: list[int | str]


def installed() -> bool:
    return find_spec("openvino") is not None


def version() -> str:
    import openvino

    return str(openvino.__version__).partition("-")[0]


class OpenVinoSession:
    """A network compiled for the CPU. Raises RuntimeError for what OpenVINO does not take."""

    def __init__(self, data: bytes, precision: str, threads: int) -> None:
        import openvino

        model = openvino.Core().read_model(data)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "CPU_DENORMALS_OPTIMIZATION": True,
            "ENABLE_CPU_PINNING": False,  # the cores are FFTW's and numba's too
        }
        self._compiled = openvino.compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def get_providers(self) -> list[str]:
        return ["OpenVINOExecutionProvider"]

    def get_inputs(self) -> list[Node]:
        return [_node(port) for port in self._compiled.inputs]

    def get_outputs(self) -> list[Node]:
        return [_node(port) for port in self._compiled.outputs]

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self._request.start_async(dict(inputs))
        self._request.wait()
        made = self._request.results
        names = [node.name for node in self.get_outputs()] if outputs is None else outputs
        return [np.array(made[name]) for name in names]  # copies: the request's own arrays are used again

    def cancel(self) -> None:
        """End a run that goes on in another thread."""
        self._request.cancel()


def _node(port: Any) -> Node:
    shape: list[int | str] = [d.get_length() if d.is_static else "?" for d in port.get_partial_shape()]
    kind = port.get_element_type().get_type_name()
    return Node(port.get_any_name(), TYPES.get(kind, f"tensor({kind})"), shape)
