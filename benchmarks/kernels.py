"""Time and memory of each kernel, and its error against plain float64 numpy, SciPy or its own defining property.

python -m benchmarks.kernels --sizes small,medium,large --threads 1,2 -o benchmarks/results/kernels.jsonl

Arrays have the FFT shape that the size is padded to; masks are an ellipsoid that fills it to 9/10.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.inputs import grid_of
from benchmarks.kernel_cases import KERNELS, Field
from benchmarks.methods import listed, sizes
from qsm_runtime import bench
from qsm_runtime.kernels.threads import set_threads

ROOT = Path(__file__).resolve().parents[1]
LIMIT_START_S = 90.0


def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one kernel in this process."""
    set_threads(spec["threads"])
    field = Field.of(grid_of(spec["size"]))
    call, check = KERNELS[spec["kernel"]](field)
    record, result = bench.measure(call, field.grid.shape, repeats=spec["repeats"], budget_s=spec["budget_s"])
    grid = {"shape": field.grid.shape, "voxel_mm": field.grid.voxel_mm, "mask_voxels": int(field.mask.sum())}
    return {**record, "grid": grid, "accuracy": {"relative_error": check(result)}}


def run(arguments: argparse.Namespace) -> int:
    environment, failed = bench.environment(), 0
    for size in arguments.sizes:
        for threads in arguments.threads:
            for kernel in arguments.kernel:
                case = {"kernel": kernel, "size": size, "threads": threads}
                spec = {**case, "repeats": arguments.repeats, "budget_s": arguments.budget_s}
                command = [sys.executable, "-m", "benchmarks.kernels", "--child", json.dumps(spec)]
                done = bench.run_child(command, limit_s=2 * arguments.budget_s + LIMIT_START_S, cwd=ROOT)
                bench.append(arguments.output, {"kind": "kernel", "case": case, **done, "environment": environment})
                failed += done["status"] != "ok"
                if not arguments.quiet:
                    print(line(case, done), flush=True)
    return 1 if failed else 0


def line(case: dict[str, Any], done: dict[str, Any]) -> str:
    """One case on one line of the terminal."""
    name = f"{case['size']:>8} {case['threads']}t  {case['kernel']}"
    if done["status"] != "ok":
        return f"{name:36s} {done['status']}: {done['error']}"
    noisy = "  NOISY" if done["load"]["noisy"] else ""
    return (
        f"{name:36s} median {1000 * done['time']['median_s']:9.3f} ms  {done['relative']['fft_pairs']:7.2f} FFT pairs  "
        f"{done['relative']['copies']:7.1f} copies  error {done['accuracy']['relative_error']:.1e}{noisy}"
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--sizes", type=sizes, default=["small"], help="small, medium, large; or NX,NY,NZ@V with blanks")
    p.add_argument("--threads", type=lambda s: [int(n) for n in listed(s)], default=[2])
    p.add_argument("--kernel", type=listed, default=list(KERNELS), help="commas between; default all")
    p.add_argument("--repeats", type=int, default=15, help="warm runs after the first")
    p.add_argument("--budget-s", type=float, default=20.0, help="no further run is started after so many seconds")
    p.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "kernels.jsonl")
    p.add_argument("-q", "--quiet", action="store_true")
    return p


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["--child"]:
        print(json.dumps(child(json.loads(words[1])), default=float))
        return 0
    return run(parser().parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
