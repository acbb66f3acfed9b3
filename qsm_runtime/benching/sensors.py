"""Heat, clocks, throttling and power as Linux shows them, and the GPU with its driver; None where nothing is shown."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

THERMAL, CPUS, SUPPLIES = Path("/sys/class/thermal"), Path("/sys/devices/system/cpu"), Path("/sys/class/power_supply")
SELF_GOVERNED = ("intel_pstate", "amd-pstate-epp")  # their powersave raises the clock under load all the same
QUERY = ("name", "driver_version", "temperature.gpu", "power.draw", "clocks.sm", "clocks_throttle_reasons.active")


def read() -> dict[str, float | None]:
    """Hottest zone in Celsius, mean clock in MHz, count of throttlings since the start of the machine."""
    heat = _numbers(THERMAL.glob("thermal_zone*/temp"))
    clocks = _numbers(CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    throttled = _numbers(CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return {
        "celsius": max(heat) / 1000 if heat else None,
        "clock_mhz": sum(clocks) / len(clocks) / 1000 if clocks else None,
        "throttlings": sum(throttled) if throttled else None,
    }


def between(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> dict[str, Any]:
    """Both readings, and whether the CPU was throttled between them (None: not known)."""
    counts = before["throttlings"], after["throttlings"]
    throttled = None if counts[0] is None or counts[1] is None else counts[1] > counts[0]
    return {"before": dict(before), "after": dict(after), "throttled": throttled}


def power() -> dict[str, Any]:
    """on_battery: bool; governor and driver of the first core's clock: names."""
    clock = CPUS / "cpu0" / "cpufreq"
    mains = [_word(kind.parent / "online") for kind in SUPPLIES.glob("*/type") if _word(kind) == "Mains"]
    batteries = [_word(kind.parent / "status") for kind in SUPPLIES.glob("*/type") if _word(kind) == "Battery"]
    on_battery = None
    if mains or batteries:
        on_battery = "1" not in mains if mains else "Discharging" in batteries
    return {
        "on_battery": on_battery,
        "governor": _word(clock / "scaling_governor"),
        "driver": _word(clock / "scaling_driver"),
    }


def gpu() -> dict[str, Any]:
    """What is known of the first NVIDIA GPU; {"absent": why} where there is none."""
    from qsm_runtime.networks import devices

    try:
        found = devices.gpu(0)
    except devices.NoGpu as error:
        return {"absent": str(error)}
    out: dict[str, Any] = {"name": found.name, "capability": list(found.capability), "driver_cuda": found.driver}
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return out
    values = [v.strip() for v in done.stdout.strip().split(",")]
    return out | (dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else {})


def _numbers(paths: Any) -> list[float]:
    found = []
    for path in paths:
        try:
            found.append(float(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def _word(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
