"""What can be known of GPUs and wheels without onnxruntime: asked of the driver itself, for remedies and cache keys."""

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")
PLUGIN = "onnxruntime-ep-openvino"
# each of these installs a package called onnxruntime: two of them overwrite one another's files
WHEELS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm",
    "onnxruntime-migraphx", "onnxruntime-training", "onnxruntime-qnn", "onnxruntime-windowsml", "ort-nightly",
    "ort-nightly-gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver names it. driver: highest CUDA version that it serves, 13000 for 13.0."""

    name: str
    capability: tuple[int, int]
    driver: int


class NoGpu(Exception):
    """Why there is none, and the remedy."""


def gpu(number: int) -> Gpu:
    """GPU `number`. Raises NoGpu."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        raise NoGpu(f"no NVIDIA driver ({DRIVER} is not there); install the driver of your GPU") from None
    if (code := cuda.cuInit(0)) != 0:
        raise NoGpu(f"the NVIDIA driver does not start (cuInit says {code}); see whether nvidia-smi lists a GPU")
    count, driver, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if number >= count.value:
        there = f"cuda:0 to cuda:{count.value - 1} are there" if count.value else "the driver lists none"
        raise NoGpu(f"no GPU number {number}; {there}")
    cuda.cuDriverGetVersion(ctypes.byref(driver))
    cuda.cuDeviceGet(ctypes.byref(device), number)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, 256, device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return Gpu(name.value.decode(), (major.value, minor.value), driver.value)


def wheels() -> list[str]:
    """The onnxruntime wheels that are installed; more than one is a broken installation."""
    return [name for name in WHEELS if any(Distribution.discover(name=name))]  # reads no other package's metadata


def clash(installed: list[str]) -> str:
    """What to say of several onnxruntime wheels; "" for one."""
    if len(installed) < 2:
        return ""
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else installed[0]
    return (
        f"{' and '.join(installed)} are installed together and overwrite one another's files: "
        f"pip uninstall -y {' '.join(installed)} && pip install {keep}"
    )


def tensorrt_version() -> str:
    """Of the TensorRT wheel; "" without one. Its libraries are loaded, so that onnxruntime finds them."""
    spec = find_spec("tensorrt_libs")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for pattern in ("libnvinfer.so.*", "libnvinfer_plugin.so.*", "libnvonnxparser.so.*", "nvinfer*.dll"):
            for path in sorted(Path(place).glob(pattern)):
                with suppress(OSError):
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for package in ("tensorrt-cu13", "tensorrt-cu12", "tensorrt", "tensorrt-cu13-libs", "tensorrt-cu12-libs"):
        with suppress(PackageNotFoundError):
            return version(package)
    return ""
