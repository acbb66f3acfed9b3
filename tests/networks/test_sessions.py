"""Sessions: what runs is what the card says, where it was asked for, and nowhere else."""

import gc
import json
import os
import warnings
import weakref

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.ndimage import correlate
from small_model import convolutions, fields_of

from qsm_runtime.errors import DeviceError, ModelError, QsmWarning, UsageError
from qsm_runtime.kernels.threads import get_threads, set_threads
from qsm_runtime.networks import devices, engines, openvino_direct, providers, registry, session, verify
from qsm_runtime.networks.runtime import Runtime

CPU = Runtime("ort-cpu")


@pytest.fixture
def model(make_model):
    return registry.load(make_model())


def field(shape=(8, 12, 16), seed=0) -> dict[str, np.ndarray]:
    return {"field": np.random.default_rng(seed).normal(size=(1, 1, *shape)).astype(np.float32)}


def test_outputs_are_those_of_scipy(model) -> None:
    first, second = (numpy_helper.to_array(w) for w in onnx.load_from_string(model.read()).graph.initializer)
    x = field()
    hidden = [np.maximum(correlate(x["field"][0, 0].astype(float), w[0], mode="constant"), 0) for w in first]
    expected = sum(correlate(h, w, mode="constant") for h, w in zip(hidden, second[0], strict=True))
    with session.open_session(model, CPU) as net:
        found = net.run(x)["chi"]
        assert net.provider == "cpu"
        np.testing.assert_array_equal(net.run(x)["chi"], found)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def test_sessions_are_kept_and_let_go(model) -> None:
    kept = session.open_session(model, Runtime("ort-cpu", mode="server"))
    with kept:
        assert session.open_session(model, Runtime("ort-cpu", mode="server")) is kept
    assert session.open_session(model, Runtime("ort-cpu", mode="server")) is kept
    kept.close()
    with session.open_session(model, CPU) as first:
        assert session.open_session(model, CPU) is first
    assert session.open_session(model, CPU) is not first
    for seed in range(session.MAX_SESSIONS + 2):
        session.open_session(model, Runtime("ort-cpu", memory_mib=100 + seed))
    assert len(session._open) == session.MAX_SESSIONS


def test_a_closed_session_leaves_nothing_in_memory(model) -> None:
    with session.open_session(model, CPU) as net:
        net.run(field())
        inside = weakref.ref(net._session)
    gc.collect()
    assert inside() is None


def test_threads_are_those_of_the_kernels(model) -> None:
    before = get_threads()
    try:
        set_threads(1)
        assert engines.session_options().intra_op_num_threads == 1
        assert session.open_session(model, CPU).record()["threads"] == 1
    finally:
        set_threads(before)


def test_denormals_are_flushed_in_the_network_and_nowhere_else(model) -> None:
    tiny = np.full((1, 1, 8, 12, 16), 1e-39, np.float32)
    assert not session.open_session(model, CPU).run({"field": tiny})["chi"].any()
    assert (tiny * np.float32(0.5)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tensor": "fild"}, r"inputs\[0\].tensor = 'fild', but small.onnx has no such input: its inputs are 'field'"),
        ({"dtype": "float16"}, r"inputs\[0\].dtype = 'float16', but the graph's tensor 'field' is tensor\(float\)"),
        ({"axes": "ncxy"}, r"inputs\[0\].axes = 'ncxy' has 4 axes, but the graph's tensor 'field' has 5"),
    ],
)
def test_tensors_are_those_of_the_graph(make_model, change, says) -> None:
    fields = fields_of("small", convolutions())
    port = fields["inputs"][0] | change
    scales = {port["tensor"]: {"kind": "none"}}
    path = make_model(tests=False, inputs=[port], normalisation=fields["normalisation"] | {"inputs": scales})
    with pytest.raises(ModelError, match=says):
        session.open_session(registry.load(path), CPU)


def test_an_output_that_is_not_there_and_an_input_too_many(make_model) -> None:
    fields = fields_of("small", convolutions())
    scales = fields["normalisation"] | {"outputs": {"x": {"kind": "none"}}}
    path = make_model(tests=False, outputs=[fields["outputs"][0] | {"tensor": "x"}], normalisation=scales)
    with pytest.raises(ModelError, match=r"outputs\[0\].tensor = 'x', but .* its outputs are 'chi'"):
        session.open_session(registry.load(path), CPU)
    two = onnx.load_from_string(convolutions())
    two.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 1, "x", "y", "z"]))
    path = make_model(data=two.SerializeToString(), tests=False)
    with pytest.raises(ModelError, match="has an input 'mask' that its card small does not describe"):
        session.open_session(registry.load(path), CPU)


def test_a_size_baked_into_the_graph_must_stand_in_the_card(make_model) -> None:
    path = make_model(data=convolutions(sizes=(16, 16, "z")), tests=False)
    with pytest.raises(
        ModelError, match=r"takes 16 voxels along x and no other number, but the card's size.fixed is None"
    ):
        session.open_session(registry.load(path), CPU)


def test_arrays_that_do_not_fit_are_refused(model) -> None:
    net = session.open_session(model, CPU)
    with pytest.raises(ModelError, match="input 'field' must be float32, not float64"):
        net.run({"field": np.zeros((1, 1, 8, 8, 8))})
    with pytest.raises(ModelError, match="input 'field' must have shape"):
        net.run({"field": np.zeros((8, 8, 8), np.float32)})
    with pytest.raises(ModelError, match="input 'field' was not given"):
        net.run({})
    with pytest.raises(ModelError, match="no input 'mask', only 'field'"):
        net.run(field() | {"mask": np.ones(3, np.float32)})


def test_a_damaged_file_is_refused_when_opened(model) -> None:
    model.onnx_path.write_bytes(model.onnx_path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="truncated"):
        session.open_session(model, Runtime())


def test_the_operators_are_known(make_model) -> None:
    odd = onnx.load_from_string(convolutions())
    odd.graph.node[1].op_type = "Rleu"
    with pytest.raises(ModelError, match=r"cpu does not take it: .*Rleu"):
        session.open_session(registry.load(make_model(data=odd.SerializeToString(), tests=False)), CPU)


@pytest.mark.parametrize("device", ["cuda", "cuda:63", "tensorrt", "tensorrt:63"])
def test_a_gpu_that_is_not_there_is_an_error_with_the_remedy(model, device, monkeypatch) -> None:
    def none(number: int) -> devices.Gpu:
        raise devices.NoGpu("no NVIDIA driver; install the driver of your GPU")

    monkeypatch.setattr(devices, "gpu", none)
    providers.absent.cache_clear()
    with pytest.raises(DeviceError, match=rf"--device {device} cannot be met: .*(driver|pip install)") as caught:
        session.open_session(model, Runtime(device))
    assert caught.value.exit_code == 7
    providers.absent.cache_clear()


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_driver_alone_is_no_cuda(model, monkeypatch) -> None:
    """The driver answers, but a session does not run: refused all the same, never the CPU."""
    monkeypatch.setattr(devices, "gpu", lambda number: devices.Gpu("imagined", (9, 0), 13000))
    providers.absent.cache_clear()
    if "CUDAExecutionProvider" not in engines.ort.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    with pytest.raises(DeviceError, match=r"cuda: .*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        session.open_session(model, Runtime("cuda"))
    record = session.open_session(model, Runtime()).record()
    assert record["provider"] in ("cpu", "openvino")
    assert any(reason.startswith("cuda: ") for reason in record["passed_over"])
    providers.absent.cache_clear()


def test_what_computes_too_coarsely_is_absent(monkeypatch) -> None:
    monkeypatch.setitem(providers.ROUNDING, "f32", 1e-12)
    providers.absent.cache_clear()
    assert "computes at less than f32" in providers.absent("cpu")
    monkeypatch.undo()
    providers.absent.cache_clear()
    assert providers.absent("cpu") == ""


@pytest.fixture
def played(monkeypatch):
    """The plugin provider is there: onnxruntime's own plays it."""
    original = engines.make_session

    def make(data, settings, provider, number, precision, **rest):
        if provider == "openvino":
            provider, settings = "cpu", engines.session_options()
        return original(data, settings, provider, number, precision, **rest)

    monkeypatch.setattr(engines, "make_session", make)
    monkeypatch.setattr(providers, "_openvino", lambda: "")
    monkeypatch.setitem(engines.NATIVE, "openvino", engines.NATIVE["cpu"])
    providers.absent.cache_clear()
    session._trials.clear()
    yield
    providers.absent.cache_clear()
    session._trials.clear()


def test_the_plugin_runs_what_the_cpu_is_asked_for(model, make_model, played) -> None:
    assert session.open_session(model, Runtime("cpu")).provider == "openvino"
    assert session.open_session(model, CPU).provider == "cpu"
    lower = {"bytes_per_voxel": 100, "providers": ["cpu"], "denormals_to_zero": False, "precision": "bf16"}
    model = registry.load(make_model("lower", runtime=lower))
    record = session.open_session(model, Runtime("cpu", "bf16")).record()
    assert (record["provider"], record["precision"]) == ("openvino", "bf16")


def test_a_provider_that_the_card_does_not_list_must_pass_the_self_test(model, played) -> None:
    assert session.open_session(model, Runtime("openvino")).provider == "openvino"
    name = model.beside("small-1.npz")
    with np.load(name) as file:
        wrong = {key: 1.01 * file[key] for key in file.files}
    np.savez(name, **wrong)
    session._trials.clear()
    with pytest.raises(
        DeviceError, match=r"openvino: the self-test of small fails there \(error 9.9e-03, not 1.0e-05\)"
    ):
        session.open_session(model, Runtime("openvino"))
    assert session.open_session(model, Runtime("cpu")).provider == "cpu"
    name.unlink()
    session._trials.clear()
    with pytest.raises(DeviceError, match=r"its card does not list it, and its self-test cannot be run.*small-1.npz"):
        session.open_session(model, Runtime("openvino"))


def test_openvinos_own_runtime_computes_the_same(model) -> None:
    if not openvino_direct.installed():
        pytest.skip("openvino is not installed")
    data, x = model.read(), field()
    direct = engines.worker.submit(openvino_direct.OpenVinoSession, data, "f32", get_threads()).result()
    assert [node.name for node in (*direct.get_inputs(), *direct.get_outputs())] == ["field", "chi"]
    (found,) = engines.worker.submit(direct.run, ["chi"], x).result()
    with session.open_session(model, CPU) as net:
        np.testing.assert_allclose(found, net.run(x)["chi"], atol=2e-6)
    (again,) = engines.worker.submit(direct.run, ["chi"], x).result()
    np.testing.assert_array_equal(found, again)


def test_where_the_operators_run_is_recorded(model) -> None:
    assert set(session.open_session(model, CPU).record()["operators"]) <= {"cpu"}


def test_precision_is_kept_to_what_card_and_provider_hold(model, make_model) -> None:
    with pytest.raises(ModelError, match="was not verified below f32"):
        session.open_session(model, Runtime("ort-cpu", "bf16"))
    lower = {"bytes_per_voxel": 100, "providers": ["cpu"], "denormals_to_zero": False, "precision": "bf16"}
    model = registry.load(make_model("lower", runtime=lower))
    with pytest.raises(DeviceError, match="--precision bf16 cannot be met: cpu: it has no precision bf16, only f32"):
        session.open_session(model, Runtime("ort-cpu", "bf16"))
    assert session.open_session(model, CPU).precision == "f32"


def test_two_wheels_are_told(model, monkeypatch) -> None:
    monkeypatch.setattr(devices, "wheels", lambda: ["onnxruntime", "onnxruntime-gpu"])
    with pytest.warns(QsmWarning, match="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"):
        session.open_session(model, CPU)
    monkeypatch.undo()
    assert devices.clash(devices.wheels()) == ""


def test_auto_says_what_was_passed_over(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", QsmWarning)
        record = session.open_session(model, Runtime()).record()
    assert record["precision"] == "f32"
    assert record["threads"] == get_threads()
    if record["provider"] == "cpu":
        assert [reason.partition(":")[0] for reason in record["passed_over"]] == ["cuda", "openvino"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"device": "gpu"}, r"unknown device 'gpu'.*cuda\[:N\]"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": "cpu:1"}, "unknown device 'cpu:1'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; did you mean f16"),
        ({"memory_mib": 0}, "memory_mib must be above 0"),
        ({"fallback": "tvv"}, "unknown method to fall back to 'tvv'; did you mean"),
        ({"fallback": "inversion=vsharp"}, "unknown inversion method to fall back to 'vsharp'"),
        ({"fallback": "inverse=tv"}, "unknown stage 'inverse'; did you mean inversion"),
        ({"fallback": "network"}, "unknown method to fall back to 'network'"),
    ],
)
def test_a_runtime_is_checked_when_made(arguments, says) -> None:
    with pytest.raises(UsageError, match=says):
        Runtime(**arguments)


class Asked:
    """Plays SessionOptions and InferenceSession: keeps what onnxruntime would have been asked for."""

    def __init__(self) -> None:
        self.plugin: tuple | None = None
        self.providers: dict = {}
        self.fallback = 1

    def add_provider_for_devices(self, chosen, options) -> None:
        self.plugin = (chosen, options)

    def session(self, data, settings, providers=(), enable_fallback=1) -> "Asked":
        self.providers = dict(p if isinstance(p, tuple) else (p, {}) for p in providers)
        self.fallback = enable_fallback
        return self


@pytest.fixture
def asked(monkeypatch) -> Asked:
    stand_in = Asked()
    monkeypatch.setattr(engines.ort, "InferenceSession", stand_in.session)
    monkeypatch.setattr(engines, "openvino_is_direct", lambda: False)
    monkeypatch.setattr(engines, "openvino_devices", lambda: ["first", "second"])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    return stand_in


def test_the_plugin_is_asked_for_the_precision(asked) -> None:
    for precision in ("f32", "bf16"):
        engines.make_session(b"", asked, "openvino", 0, precision, folder=None, server=False)
        chosen, options = asked.plugin
        assert chosen == ["first"]
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(get_threads())}
        assert json.loads(options["load_config"]) == {"CPU": hints}
        assert asked.fallback == 0


def test_cuda_and_tensorrt_are_asked_for_the_precision(asked, tmp_path) -> None:
    for precision in ("f32", "tf32"):
        engines.make_session(b"", asked, "cuda", 1, precision, folder=None, server=False, memory_mib=2.0)
        cuda = asked.providers["CUDAExecutionProvider"]
        assert (cuda["device_id"], cuda["gpu_mem_limit"]) == ("1", str(2 * 2**20))
        assert cuda["use_tf32"] == ("1" if precision == "tf32" else "0")
        assert asked.fallback == 0
    engines.make_session(b"", asked, "tensorrt", 1, "f16", folder=tmp_path / "engines", server=True)
    trt = asked.providers["TensorrtExecutionProvider"]
    assert (trt["trt_fp16_enable"], trt["trt_bf16_enable"]) == ("True", "False")
    assert trt["trt_engine_cache_path"] == trt["trt_timing_cache_path"] == str(tmp_path / "engines")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert next(iter(asked.providers)) == "TensorrtExecutionProvider"


def test_engines_are_kept_apart(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(devices, "gpu", lambda number: devices.Gpu("NVIDIA H100", (9, number), 13000))
    one = engines.engine_folder("a" * 64, 0, "f32")
    others = {
        engines.engine_folder("b" * 64, 0, "f32"),
        engines.engine_folder("a" * 64, 1, "f32"),
        engines.engine_folder("a" * 64, 0, "f16"),
    }
    assert one.is_relative_to(tmp_path)
    assert len(others | {one}) == 4
    assert "NVIDIA-H100" in one.name


def test_verify_measures_both_sizes(model) -> None:
    net, checked = verify.verify(model, CPU)
    assert net.provider == "cpu"
    assert [c.shape for c in checked] == [(16, 20, 12), (20, 12, 16)]
    assert all(c.holds and c.error < 1e-6 for c in checked)


def test_verify_finds_a_wrong_output(model) -> None:
    name = model.card.self_test[0].file
    with np.load(model.beside(name)) as file:
        chi = file["output.chi"].copy()
    chi[0, 0, 3, 4, 5] += np.abs(chi).max()
    np.savez(model.beside(name), **{"output.chi": chi})
    _, checked = verify.verify(model, CPU)
    assert not checked[0].holds
    assert checked[0].error > 0.4
    np.savez(model.beside(name), **{"output.chi": chi[..., :-1]})
    with pytest.raises(ModelError, match="output 'chi' has shape"):
        verify.verify(model, CPU)
    np.savez(model.beside(name), other=chi)
    with pytest.raises(ModelError, match=r"no array 'output.chi'; it holds other"):
        verify.verify(model, CPU)


def test_self_test_inputs_do_not_depend_on_numpy(model) -> None:
    x = verify.test_inputs(model.card, (16, 20, 12), 0)["field"]
    assert x.shape == (1, 1, 16, 20, 12)
    assert x.std() == pytest.approx(1, abs=0.02)
    known = np.array([0.6369616873214543, 0.2697867137638703, 0.04097352393619469])  # of PCG64, seed 0
    np.testing.assert_allclose(x.ravel()[:3], (2 * known - 1) * np.sqrt(3), atol=1e-6)
