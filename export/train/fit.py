"""Train `dipole` on a folder of samples. Resumes from its checkpoint; the schedule counts steps, not hours.

python -m export.train.fit SAMPLES RUN --steps 3000 --validation HELD_OUT
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.train.dipole_net import DipoleNet, Loop
from export.train.losses import loss, xsim
from qsm_runtime.kernels.weights import SATURATION
from qsm_runtime.networks.learned_proximal import PASSES

WARM_UP = 100
DECAY = 0.995  # of the running mean of weights


def load(path: Path) -> dict[str, Tensor]:
    """A sample of make_data; arrays float32."""
    with np.load(path) as z:
        s = {k: torch.from_numpy(np.asarray(z[k], np.float32)) for k in z.files}
    if "kept2" not in s:  # samples of before
        s["kept2"] = s["weight2"]
        ratio = s["deviation"] / (SATURATION * s["deviation"][s["mask"] > 0].median())
        s["weight2"] = torch.where(s["kept2"] > 0, 1 / (1 + ratio * ratio), 0)
    return s


def turned(s: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """The sample with its axes exchanged and flipped, physics and all."""
    order = rng.permutation(3).tolist()
    flips = [a for a in range(3) if rng.random() < 0.5]
    out = {}
    for name, a in s.items():
        if a.ndim == 3:
            out[name] = a.permute(order).flip(flips).contiguous()
        else:
            out[name] = a[order]
    sign = torch.ones(3)
    sign[flips] = -1
    out["b0_dir"] = out["b0_dir"] * sign
    return out


def even(s: dict[str, Tensor]) -> dict[str, Tensor]:
    """Even last FFT size, whatever axis came last."""
    shape = s["fft_shape"].clone()
    shape[2] += shape[2] % 2
    return {**s, "fft_shape": shape}


def rate(step: int, steps: int, peak: float) -> float:
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(1, done)))))


def passes_at(step: int, steps: int) -> int:
    """One pass while the network is young, then one and two by turns: the weights are shared."""
    return 1 if step < 0.2 * steps or step % 2 else PASSES


def validate(loop: Loop, folder: Path | None) -> dict[str, list[float]]:
    out = {}
    for path in sorted(folder.glob("*.npz")) if folder else []:
        s = load(path)
        with torch.no_grad():
            maps = [s["start"], *loop(s)]
        inside = s["mask"] > 0
        t = s["chi"][inside]
        row = []
        for x in maps:
            r = float(torch.corrcoef(torch.stack((x[inside], t)))[0, 1])
            row += [round(float(xsim(x, s["chi"], s["mask"])), 4), round(r, 4)]
        out[path.stem] = row
    return out


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("samples", type=Path)
    p.add_argument("run", type=Path)
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--validation", type=Path)
    p.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--start", type=Path, help="weights to start from")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    a.run.mkdir(parents=True, exist_ok=True)
    net = DipoleNet().to(memory_format=torch.channels_last_3d)
    if a.start:
        net.load_state_dict(torch.load(a.start))
    mean = copy.deepcopy(net)
    loop, mean_loop = Loop(net), Loop(mean)
    optimiser = torch.optim.Adam(net.parameters(), a.rate, betas=(0.9, 0.99))
    first, latest = 0, a.run / "latest.pt"
    if latest.exists():
        kept = torch.load(latest)
        net.load_state_dict(kept["net"])
        mean.load_state_dict(kept["mean"])
        optimiser.load_state_dict(kept["optimiser"])
        first = kept["step"]
    start, terms_of = time.time(), []
    for step in range(first, a.steps):
        rng = np.random.default_rng((a.seed, step))
        files = sorted(a.samples.glob("?????_?.npz"))
        s = turned(load(files[int(rng.integers(len(files)))]), rng)
        s = even(s)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, a.steps, a.rate)
        maps = loop(s, passes_at(step, a.steps))
        total, terms = loss(maps[-1], s)
        # strong lesions make a sample's loss large: let none weigh more than a few others
        total = total / max(1.0, float(total.detach()) / 6)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        if torch.isfinite(norm):
            optimiser.step()
        keep = min(DECAY, (step + 1) / (step + 20))
        with torch.no_grad():
            for m, n in zip(mean.parameters(), net.parameters(), strict=True):
                m.lerp_(n, 1 - keep)
        terms_of.append({**terms, "total": float(total.detach()), "norm": float(norm)})
        if (step + 1) % 25 == 0:
            said = {k: round(float(np.mean([t[k] for t in terms_of])), 4) for k in terms_of[0]}
            terms_of = []
            line = {"step": step + 1, "passes": len(maps), "s": round(time.time() - start), "files": len(files), **said}
            print(json.dumps(line), flush=True)
        if (step + 1) % a.every == 0 or step + 1 == a.steps:
            kept = {"net": net.state_dict(), "mean": mean.state_dict(), "optimiser": optimiser.state_dict()}
            temporary = a.run / "latest.tmp"
            torch.save({**kept, "step": step + 1}, temporary)
            temporary.replace(latest)
            print(json.dumps({"step": step + 1, "validation": validate(mean_loop, a.validation)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
