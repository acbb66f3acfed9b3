"""Records as `qsm bench` writes them, made by hand."""

import json
from pathlib import Path

from qsm_runtime import bench
from qsm_runtime.benching import noise

ENVIRONMENT = {
    "cpu": "Test <CPU>", "cores": 4, "memory_mib": 8192, "system": "Test 1", "versions": {"python": "3.12"},
    "gpu": {"absent": "no NVIDIA driver"},
}  # fmt: skip
QUIET = {"steal_share": 0.0, "others_share": 0.01, "noisy": False}
BUSY = {"steal_share": 0.0, "others_share": 0.6, "noisy": True}


def made(name="default", median=2.0, *, size="small", threads=2, xsim=0.7, load=QUIET, peak=500.0, spread=0.002):
    runs = [[median * (1 - spread), median, median * (1 + spread)], [median, median]]
    warm = [t for one in runs for t in one]
    stages = {"mask": [0.25 * t for t in warm], "single_step": [0.75 * t for t in warm]}
    bound = {s: {"transforms": [], "fft_s": 0.4, "memory_s": 0.01, "share_of_bound": 0.3} for s in stages}
    return {
        "schema": bench.SCHEMA, "utc": "2030-01-01T00:00:00+00:00", "kind": "recipe", "status": "ok",
        "case": {"recipe": name, "size": size, "threads": threads, "device": "cpu", "precision": "f32",
                 "source": "phantom"},
        "time": {"first_s": 2 * median, "warm_s": warm, "by_process_s": runs, **bench.summary(warm),
                 "uncertainty_s": noise.uncertainty_s(runs), "first_slice_s": median},
        "memory": {"peak_mib": peak}, "load": load, "stages": {"first_s": {}, "warm_s": stages}, "bound": bound,
        "accuracy": {"xsim": xsim, "xsim_full": xsim, "correlation": 0.9, "slope": 1.0},
        "grid": {"shape": [96, 112, 96] if size == "small" else [164, 205, 205]}, "environment": ENVIRONMENT,
    }  # fmt: skip


def cold(name="default", total=5.0, **more):
    record = made(name, total, **more)
    breakdown = {"interpreter": 0.1, "imports": 1.0, "JIT load": 0.9, "first run": total - 2.0}
    case = {**record["case"], "caches": "filled"}
    return {**record, "kind": "cold", "case": case, "time": {**record["time"], "breakdown_s": breakdown}}


def rated(gb_per_s: float, threads: int = 4) -> dict:
    one = {"shape": [96, 112, 96], "fft_pair_s": [0.02], "convolution_s": [0.03], "fft_gflop_per_s": 9.0,
           "convolutions_per_s": 33.0}  # fmt: skip
    rates = {"threads": threads, "copy_gb_per_s": gb_per_s, "shapes": [one]}
    return {**made(), "kind": "machine", "case": {"threads": threads}, "rates": rates}


def write(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path
