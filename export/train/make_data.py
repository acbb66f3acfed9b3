"""Simulate a training set: one .npz a sample, the same for the same seed.

python -m export.train.make_data FOLDER --first 0 --last 400 --labels LABELS.nii.gz
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from export.train import scenes, totals
from export.train.simulate import Sample, sample

SIDES = (56, 64, 72, 88)


def group(index: int, labels: Path | None) -> list[Sample]:
    """The samples of one index; heads give several, since painting one takes longest."""
    rng = np.random.default_rng((20240, index))
    kind = index % 5
    side = int(rng.choice(SIDES))
    if kind in (0, 3):
        across = int(rng.choice((64, 76, 88, 100, 116, 150), p=(0.15, 0.2, 0.2, 0.2, 0.15, 0.1)))
        side = max(side, 64)
        parts = 2 if across <= 88 else 3
        found = scenes.heads(rng, scenes.FIRST_SEED + index, across, parts, 88 if rng.random() < 0.5 else side)
    elif kind in (1, 4) or labels is None:
        found = [scenes.shapes(rng, min(side, 72))]
    else:
        found = [scenes.labelled(rng, labels, min(side, 72))]
    return [s for s in (sample(rng, scene) for scene in found) if s is not None]


def total_group(index: int, labels: Path | None) -> list[Sample]:
    """The same with total fields: a whole head and two pieces of it, or one scene between sources."""
    rng = np.random.default_rng((20250, index))
    kind = index % 6
    if kind < 4:
        return totals.head_samples(rng, index, 2)
    side = int(rng.choice(SIDES[:3]))
    scene = scenes.shapes(rng, side) if kind == 4 or labels is None else scenes.labelled(rng, labels, side)
    found = totals.shape_sample(rng, scene)
    return [] if found is None else [found]


def save(path: Path, s: Sample) -> None:
    p = s.prepared
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        field=p.field,
        weight2=p.weight2.astype(np.float16),
        kept2=p.kept2.astype(np.float16),
        deviation=p.deviation,
        start=p.start,
        mask=p.mask,
        chi=s.chi_ppm,
        fft_shape=np.array(p.box.fft_shape),
        voxel_mm=np.array(p.grid.voxel_mm),
        b0_dir=np.array(p.grid.b0_dir),
    )
    temporary.replace(path)


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--last", type=int, default=400)
    p.add_argument("--labels", type=Path, help="label image of a head: 2 white, 3 grey matter, 4 fluid")
    p.add_argument("--totals", action="store_true", help="total fields, for the network total")
    a = p.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    for index in range(a.first, a.last):
        for part, s in enumerate((total_group if a.totals else group)(index, a.labels)):
            save(a.folder / f"{index:05d}_{part}.npz", s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
