"""What a sidecar says of how its map was made, and the terminal of the networks in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.pipeline import Result


def sidecar_fields(result: Result) -> dict[str, Any]:
    """Recipe, methods, options, what was chosen, times, warnings, and of chi its reference: JSON-able, new dicts."""
    made = result.record
    recipe, reference = made["recipe"], made["reference"]
    options = {stage: values for stage, values in recipe.items() if isinstance(values, Mapping)}
    return {
        "EstimationAlgorithm": ", ".join(f"{stage} {values['method']}" for stage, values in options.items()),
        "Recipe": recipe["name"],
        "Options": options,
        "ChosenParameters": made["chosen"],
        "Threads": made["threads"],
        "SecondsPerStage": made["seconds"],
        "MaskVoxels": int(np.count_nonzero(result.brain_mask)),
        "Warnings": list(result.warnings),
        "chi": {
            "ReferenceRegion": reference["region"],
            "ReferenceValue": reference["value_ppm"],
            "ReferenceVoxels": reference["voxels"],
        },
    }


def networks_said(chosen: Mapping[str, Any]) -> list[str]:
    """A line for each network that made a stage's result: which, where and how exactly it really ran.

    chosen  what the stages recorded, `STAGE.KEY` each
    """
    lines = []
    for stage, about in _networks(chosen).items():
        name = f"network {about['model']} {about['version']}"
        lines.append(f"{stage}: {name} on {_place(about)}, {about['precision']}, {_whole(about)}")
    return lines


def memory_fields(chosen: Mapping[str, Any], runtime: Runtime | None) -> dict[str, float]:
    """The memory that networks were given, where it was set and one ran: it decided whether in patches."""
    limit_mib = runtime.memory_mib if runtime is not None and _networks(chosen) else None
    return {} if limit_mib is None else {"NetworkMemoryMiB": limit_mib}


def _networks(chosen: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Records of the networks by stage, less those that were left for a fallback."""
    found = {key.removesuffix(".network"): about for key, about in chosen.items() if key.endswith(".network")}
    return {stage: about for stage, about in found.items() if f"{stage}.fallback" not in chosen}


def _place(about: Mapping[str, Any]) -> str:
    provider, gpu, counts = about["provider"], f"on GPU {about['device_number']}", about["operators"]
    words = {
        "cpu": "onnxruntime's CPU provider",
        "openvino": "onnxruntime's OpenVINO provider on the CPU",
        "cuda": f"onnxruntime's CUDA provider {gpu}",
        "tensorrt": f"onnxruntime's TensorRT provider {gpu}",
    }
    place = "OpenVINO on the CPU" if about["engine"].startswith("openvino") else words[provider]
    elsewhere = sum(count for name, count in counts.items() if name != provider)
    return place + (f" ({elsewhere} of {sum(counts.values())} operators elsewhere)" if elsewhere else "")


def _whole(about: Mapping[str, Any]) -> str:
    patches = about["patches"]
    return "whole volume" if patches == 1 else f"{patches} patches of {'x'.join(map(str, about['patch']))} voxels"
