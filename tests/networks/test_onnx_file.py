"""The little of the ONNX format that the runtime knows by itself, against the onnx package."""

import numpy as np
import onnx
import pytest
from small_model import convolutions

from qsm_runtime.networks import onnx_file


def test_the_tiny_model_is_valid_and_known_to_onnx() -> None:
    model = onnx.load_from_string(onnx_file.tiny_model())
    onnx.checker.check_model(model, full_check=True)
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(kernel, onnx_file.tiny_kernel())


def test_opset_is_that_of_the_default_domain() -> None:
    model = onnx.load_from_string(convolutions())
    model.opset_import.insert(0, onnx.helper.make_opsetid("com.microsoft", 1))
    assert onnx_file.opset(model.SerializeToString()) == 20


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_known(share: float) -> None:
    data = convolutions()
    assert not onnx_file.truncated(data)
    assert onnx_file.truncated(data[: int(share * len(data))])


def test_what_is_no_onnx_is_known() -> None:
    assert onnx_file.truncated(b"<html>not found</html>")
    assert onnx_file.truncated(b"\xff" * 100)
