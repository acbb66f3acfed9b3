"""Train `dipole` on a folder of samples. Resumes from its checkpoint; the schedule counts steps, not hours.

python -m export.train.fit SAMPLES RUN --steps 9000 --validation HELD_OUT
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
from export.train.unpaired import Unpaired
from qsm_runtime.kernels.weights import SATURATION
from qsm_runtime.networks import joint_proximal as joint
from qsm_runtime.networks.learned_proximal import PASSES

WARM_UP = 100
DECAY = 0.995  # of the running mean of weights
REPORT = 25  # steps
YOUNG = 0.2  # of the steps: one pass only
SCHEMES: dict[str, dict[str, float]] = {
    "dipole": {},
    "total": {"data_ridge": joint.DATA_RIDGE, "level_step": 0.0, "free_steps": joint.FREE_STEPS},
}
MOST_PASSES = {"dipole": PASSES, "total": joint.PASSES + 1}  # total also holds one pass beyond those that are run


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


def passes_at(step: int, young: float, most: int) -> int:
    """One pass before step `young`, then one to `most` by turns: the weights are shared."""
    return 1 if step < young else most - step % most


def validate(loop: Loop, folder: Path | None, passes: int) -> dict[str, list[float]]:
    out = {}
    for path in sorted(folder.glob("*.npz")) if folder else []:
        s = load(path)
        with torch.no_grad():
            maps = [s["start"], *loop(s, passes)]
        inside = s["mask"] > 0
        t = s["chi"][inside]
        row = []
        for x in maps:
            r = float(torch.corrcoef(torch.stack((x[inside], t)))[0, 1])
            row += [round(float(xsim(x, s["chi"], s["mask"])), 4), round(r, 4)]
        out[path.stem] = row
    return out


class Run:
    """A training run: network, running mean of its weights, optimiser, step; kept in `folder`/latest.pt."""

    def __init__(self, folder: Path, peak: float, seed: int, unpaired: bool, scheme: str = "dipole") -> None:
        torch.manual_seed(seed)
        self.net = DipoleNet().to(memory_format=torch.channels_last_3d)
        self.mean = copy.deepcopy(self.net)
        self.loop, self.mean_loop = (Loop(net, **SCHEMES[scheme]) for net in (self.net, self.mean))  # type: ignore[arg-type]
        self.optimiser = torch.optim.Adam(self.net.parameters(), peak, betas=(0.9, 0.99))
        self.unpaired = Unpaired() if unpaired else None
        self.peak, self.seed, self.step, self.young = peak, seed, 0, YOUNG
        self.most_passes = MOST_PASSES[scheme]
        self.latest = folder / "latest.pt"
        if self.latest.exists():
            kept = torch.load(self.latest, weights_only=True)
            for name in self._parts():
                getattr(self, name).load_state_dict(kept[name])
            if self.unpaired is not None:
                self.unpaired.load(kept["unpaired"])
            self.step = kept["step"]

    def begin_from(self, checkpoint: Path) -> None:
        """Another run's mean weights, where this one has none of its own yet."""
        if self.step == 0:
            kept = torch.load(checkpoint, weights_only=True)["mean"]
            self.net.load_state_dict(kept)
            self.mean.load_state_dict(kept)
        self.young = 0.0

    @staticmethod
    def _parts() -> tuple[str, str, str]:
        return "net", "mean", "optimiser"

    def keep(self) -> None:
        kept = {name: getattr(self, name).state_dict() for name in self._parts()}
        if self.unpaired is not None:
            kept["unpaired"] = self.unpaired.state()
        temporary = self.latest.with_suffix(".tmp")
        torch.save({**kept, "step": self.step}, temporary)
        temporary.replace(self.latest)

    def advance(self, files: list[Path], steps: int) -> dict[str, float]:
        """One step on one sample; the terms of its loss."""
        rng = np.random.default_rng((self.seed, self.step))
        s = even(turned(load(files[int(rng.integers(len(files)))]), rng))
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, steps, self.peak)
        maps = self.loop(s, passes_at(self.step, self.young * steps, self.most_passes))
        if self.unpaired is None:
            total, terms = loss(maps[-1], s)
        else:
            terms = {"critic": self.unpaired.learn(maps[-1], load(files[int(rng.integers(len(files)))])["chi"])}
            total, more = self.unpaired.loss(maps[-1], s)
            terms.update(more)
        # strong lesions make a sample's loss large: let none weigh more than a few others
        total = total / max(1.0, float(total.detach()) / 6)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        keep = min(DECAY, self.step / (self.step + 19))
        with torch.no_grad():
            for m, n in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                m.lerp_(n, 1 - keep)
        return {**terms, "total": float(total.detach()), "norm": float(norm)}


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("samples", type=Path)
    p.add_argument("run", type=Path)
    p.add_argument("--steps", type=int, default=9000)
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--scheme", choices=SCHEMES, default="dipole")
    p.add_argument("--begin", type=Path, help="checkpoint of another run to start from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--validation", type=Path)
    p.add_argument("--every", type=int, default=150, help="steps between checkpoints")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--unpaired", action="store_true", help="never look at a sample's own truth (unpaired.py)")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    a.run.mkdir(parents=True, exist_ok=True)
    run = Run(a.run, a.rate, a.seed, a.unpaired, a.scheme)
    if a.begin is not None:
        run.begin_from(a.begin)
    start, terms = time.time(), []
    while run.step < a.steps:
        files = sorted(a.samples.glob("?????_?.npz"))
        terms.append(run.advance(files, a.steps))
        if run.step % REPORT == 0:
            said = {k: round(float(np.mean([t[k] for t in terms])), 4) for k in terms[0]}
            print(
                json.dumps({"step": run.step, "s": round(time.time() - start), "files": len(files), **said}), flush=True
            )
            terms = []
        if run.step % a.every == 0 or run.step == a.steps:
            run.keep()
            print(
                json.dumps({"step": run.step, "validation": validate(run.mean_loop, a.validation, run.most_passes)}),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
