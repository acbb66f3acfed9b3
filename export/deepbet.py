"""Brain masks of deepbet (Fisch 2024, 10.1016/j.compbiomed.2024.108845; MIT) from its wheel: two networks and cards.

`pip download deepbet --no-deps`, then `python -m export.deepbet deepbet-VERSION.whl -o DIR`

deepbet finds the brain on the whole volume resized to 128^3, `deepbet_box`, then segments its box, widened by a tenth
on each side and resized to 256^3, `deepbet`: about 2 mm and 0.8 mm a voxel in an adult. Both networks are fully
convolutional, so their cards ask for those voxels and any size. On a whole head take `deepbet_box`; `deepbet` knows
boxes only, and takes scalp for brain elsewhere.
They were traced to TorchScript and give softmax probabilities of background and brain.
"""

import argparse
import io
import zipfile
from pathlib import Path

import torch

from export import package
from export.cards import Values, card, normalisation, port, size

SCALE, SHIFT = 0.226, 0.449  # of the standardised magnitude
SCALING = {"kind": "zscore", "low_pct": 0.5, "high_pct": 99.5, "mean": -SHIFT / SCALE, "std": 1 / SCALE}
MULTIPLE = 32
TOLERANCE = 1e-3  # of a probability: on noise, instance norms of float32 sums differ by 2e-4 between two runtimes
MODELS = {
    "deepbet_box": ("bbox_model.pt", 2.0, "whole adult heads"),
    "deepbet": ("model.pt", 0.8, "adult heads cropped to the brain"),
}


def describe(name: str, voxel_mm: float, seen: str) -> Values:
    return card(
        name, "mask", f"deepbet: brain mask at {voxel_mm:g} mm, {seen}",
        "Fisch et al., Computers in Biology and Medicine 179:108845, 2024, doi:10.1016/j.compbiomed.2024.108845",
        [port("magnitude", "magnitude", "1")], [port("probability", "probability", "1")], 300.0,
        scaling=normalisation({"magnitude": SCALING}, {}, mask_after=False), sizes=size(MULTIPLE),
        geometry={"voxel_mm": [voxel_mm] * 3, "tolerance": 0.35, "resample": "linear", "b0": "any"},
        needs_mask=False, apply_mask=False, spdx="MIT", redistributable=True, source="torchscript",
        anatomy=f"{seen}, T1-weighted", domain={"voxel_mm": [0.5, 2.5]},
    )  # fmt: skip


def load(wheel: Path, file: str) -> torch.jit.ScriptModule:
    with zipfile.ZipFile(wheel) as archive:
        return torch.jit.load(io.BytesIO(archive.read(f"data/models/{file}")), map_location="cpu").eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.deepbet", description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    for name, (file, voxel_mm, seen) in MODELS.items():
        package.write(given.out, load(given.wheel, file), describe(name, voxel_mm, seen), TOLERANCE)
        print(f"{given.out / name}.onnx: mask, equal to torch at two sizes")


if __name__ == "__main__":
    main()
