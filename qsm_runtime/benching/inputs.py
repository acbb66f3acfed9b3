"""What is measured on: simulated heads at three sizes, kept once made, or a scan of the user's own."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

import qsm_runtime.phantom
from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.metrics import score
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head
from qsm_runtime.scan import Scan

SIZES = {
    "small": Grid((96, 112, 96), (2.0, 2.0, 2.0)),
    "clinical": Grid((192, 224, 72), (1.0, 1.0, 2.0)),
    "research": Grid((164, 205, 205), (1.0, 1.0, 1.0)),
}
KEPT = ("xsim", "correlation", "slope", "nrmse_pct", "hfen_pct", "coverage", "deep_grey_slope")


@dataclass(frozen=True)
class Input:
    """A scan, and what is known of the truth: float32 ppm and bool (x, y, z), labels uint8; None where it is not."""

    scan: Scan
    mask: np.ndarray | None = None
    chi_ppm: np.ndarray | None = None
    labels: np.ndarray | None = None
    local_ppm: np.ndarray | None = None
    total_ppm: np.ndarray | None = None

    def accuracy(self, chi_ppm: np.ndarray, valid: np.ndarray | None) -> dict[str, float | None]:
        """Scores of a map in the true mask, where what is not valid counts as zero; empty without a truth."""
        if self.chi_ppm is None:
            return {}
        return compared(chi_ppm, self.chi_ppm, self.truth_mask, valid, self.labels)

    @property
    def truth_mask(self) -> np.ndarray:
        if self.mask is not None:
            return self.mask
        return np.ones(self.scan.grid.shape, bool) if self.chi_ppm is None else self.chi_ppm != 0


def compared(
    array: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    valid: np.ndarray | None,
    labels: np.ndarray | None,
) -> dict[str, float | None]:
    """The scores that stand beside a time: XSIM over the full mask, the rest where the map is valid."""
    inside = mask if valid is None else valid & mask
    found = asdict(score(array, truth, mask, valid=inside, labels=labels))
    out = {name: found[name] for name in KEPT if found[name] is not None}
    out["xsim_full"] = score(array, truth, mask, valid=mask).xsim
    return out


def grid_of(size: str, named: Mapping[str, Grid] = SIZES) -> Grid:
    """A size of `named`, or NX,NY,NZ@V[,V,V] in voxels and mm. Raises UsageError."""
    if size in named:
        return named[size]
    shape, _, voxel = size.partition("@")
    try:
        n, v = [int(a) for a in shape.split(",")], [float(a) for a in (voxel or "1").split(",")]
    except ValueError:
        n, v = [], []
    n, v = n * 3 if len(n) == 1 else n, v * 3 if len(v) == 1 else v
    if len(n) != 3 or len(v) != 3:
        raise UsageError(f"size {size!r} is none of {', '.join(named)} and not NX,NY,NZ@VX,VY,VZ")
    return Grid((n[0], n[1], n[2]), (v[0], v[1], v[2]))


def cache_folder() -> Path:
    """Where simulated heads are kept; QSM_BENCH_CACHE moves it."""
    return Path(os.environ.get("QSM_BENCH_CACHE") or user_cache_path("qsm_runtime") / "benchmarks")


def head(grid: Grid, seed: int = 0) -> Path:
    """The .npz of a simulated head with its truth, made once a version of the phantom."""
    sources = sorted(Path(qsm_runtime.phantom.__file__).parent.glob("*.py"))
    said = json.dumps([asdict(grid), seed], sort_keys=True).encode()
    key = hashlib.sha256(said + b"".join(p.read_bytes() for p in (*sources, Path(__file__)))).hexdigest()[:16]
    path = cache_folder() / f"bench_{key}.npz"
    if not path.exists():
        made = simulate_head(grid, seed=seed)
        scan, truth = made.scan, made.truth
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(
            temporary,
            magnitude=scan.magnitude,
            phase_rad=scan.phase_rad,
            echo_times_s=np.array(scan.echo_times_s),
            b0_tesla=scan.b0_tesla,
            voxel_mm=np.array(grid.voxel_mm),
            b0_dir=np.array(grid.b0_dir),
            **{name: getattr(truth, name) for name in ("mask", "chi_ppm", "labels", "local_ppm", "total_ppm")},
        )
        temporary.replace(path)
    return path


def load(said: Mapping[str, Any]) -> Input:
    """The input of a case: {"head": .npz} or {"folder": ..., "select": name}."""
    if "head" in said:
        with np.load(said["head"]) as file:
            arrays = {name: file[name] for name in file.files}
        voxel, b0_dir = (tuple(float(v) for v in arrays[key]) for key in ("voxel_mm", "b0_dir"))
        shape = arrays["mask"].shape
        grid = Grid(shape, voxel, b0_dir)  # type: ignore[arg-type]
        times = tuple(float(t) for t in arrays["echo_times_s"])
        scan = Scan(arrays["magnitude"], arrays["phase_rad"], times, float(arrays["b0_tesla"]), grid)
        return Input(
            scan,
            *(arrays[name] for name in ("mask", "chi_ppm", "labels", "local_ppm", "total_ppm")),
        )
    from qsm_runtime import io

    folder = Path(said["folder"])
    found = {one.name: one for one in io.find_acquisitions(folder)}[said["select"]]
    scan = found.read(phase_sign=said.get("phase_sign", "auto")).scan

    def truth(*endings: str) -> np.ndarray | None:
        for ending in endings:
            for path in sorted((folder / "derivatives" / "truth").rglob(f"{found.name}_{ending}.nii.gz")):
                array = io.read_map(path).array
                return array if array.shape == scan.grid.shape else None
        return None

    mask, labels = truth("mask"), truth("dseg")
    return Input(
        scan,
        None if mask is None else mask > 0,
        truth("Chimap"),
        None if labels is None else labels.astype(np.uint8),
        truth("fieldmap-local", "desc-local_fieldmap"),
        truth("fieldmap", "desc-total_fieldmap"),
    )


def runtime_of(case: Mapping[str, Any]) -> Runtime:
    """How a case runs its networks."""
    folders = tuple(Path(p) for p in case.get("models", ()))
    return Runtime(case.get("device", "auto"), case.get("precision", "f32"), folders, mode="server")
