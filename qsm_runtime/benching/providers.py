"""Which providers and precisions run here, told by a process that may not survive the question."""

import json
import sys
from typing import Any

DEVICES = ("ort-cpu", "openvino", "cuda", "tensorrt")


def tried(devices: list[str]) -> dict[str, Any]:
    """places: (device, precision) of `devices` that a tiny network really ran on; absent: device -> why it does not."""
    from qsm_runtime.networks import providers

    places, absent = [], {}
    for device in devices:
        provider = "cpu" if device == "ort-cpu" else device
        if reason := providers.absent(provider):  # type: ignore[arg-type]
            absent[device] = reason
            continue
        for precision in providers.PRECISIONS[provider]:
            reason = providers.absent(provider, 0, precision)  # type: ignore[arg-type]
            if reason:
                absent[f"{device} {precision}"] = reason
            else:
                places.append((device, precision))
    return {"places": places, "absent": absent}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(tried(sys.argv[1:] or list(DEVICES))) + "\n")
