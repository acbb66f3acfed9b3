"""Weights of a training run as models/dipole.onnx or models/total.onnx, with card and self-tests.

python -m export.train.ship RUN/latest.pt --name dipole -o models
"""

import argparse
import sys
from pathlib import Path

import torch

from export import package
from export.cards import NONE, Values, card, normalisation, port, size
from export.train.dipole_net import MULTIPLE, DipoleNet
from export.train.simulate import PEAK_SNR
from qsm_runtime.networks import joint_proximal as joint
from qsm_runtime.networks.learned_proximal import CHANNELS, ITERATIONS, PASSES, RIDGE

WEIGHTS = "2"  # version of a network: counted up with new weights
BYTES_PER_VOXEL = 60.0  # peak of a run: 51 at 160 x 192 x 160 on the CPU provider
REACH = 16  # voxels cut off where patches meet: beyond it a voxel's output hardly depends on what it does not see
ANY_GRID: Values = {"voxel_mm": None, "tolerance": 0.0, "resample": "none", "b0": "in_dipole"}
# what scenes.py and simulate.py draw from
DOMAIN: Values = {
    "b0_tesla": [1.5, 7.0],
    "chi_ppm": [-3.0, 3.0],
    "field_ppm": None,
    "voxel_mm": [0.6, 3.5],
    "angle_deg": [0.0, 90.0],
    "snr": list(PEAK_SNR),
}


def proximal_card(name: str, task: str, title: str, anatomy: str, domain: Values, physics: Values) -> Values:
    """All of a card but what package.write fills in."""
    made = card(
        name, task, f"{name}: {title}",
        "qsm_runtime; scheme after Lai 2020, doi:10.1007/978-3-030-59713-9_13, and Adler 2018, "
        "doi:10.1109/TMI.2018.2799231",
        [port("seen", "stack", "1", channels=[(name, "ppm") for name in CHANNELS])], [port("change", "chi", "ppm")],
        BYTES_PER_VOXEL,
        scaling=normalisation({"seen": NONE}, {"change": NONE}, residual="add"),
        sizes=size(MULTIPLE), geometry=ANY_GRID, dipole={"dc": 0.0, "order": "half"},
        patching={
            "allowed": True, "patch": None, "crop": [REACH] * 3, "overlap": [MULTIPLE] * 3, "blend": "linear",
        },
        domain=domain, anatomy=anatomy, spdx="MIT", redistributable=True, physics=physics,
    )  # fmt: skip
    return {**made, "version": WEIGHTS}


def dipole_card() -> Values:
    return proximal_card(
        "dipole", "inversion", "local field to susceptibility, TV start and a learned proximal network",
        "simulated heads, a labelled head and shapes of no anatomy; lesions of either sign", DOMAIN,
        {"scheme": "learned_proximal", "passes": PASSES, "weight": RIDGE, "cg_steps": ITERATIONS},
    )  # fmt: skip


def total_card() -> Values:
    return proximal_card(
        "total", "single_step", "total field to susceptibility, joint_tv start and a learned proximal network",
        "simulated heads with air and neck, parts of them, a labelled head and shapes between sources",
        {**DOMAIN, "snr": [25.0, 250.0]},
        {"scheme": "joint_proximal", "passes": joint.PASSES, "weight": RIDGE, "cg_steps": joint.ITERATIONS},
    )  # fmt: skip


CARDS = {"dipole": dipole_card, "total": total_card}


def trained(path: Path) -> DipoleNet:
    """The running mean of the weights in a checkpoint of fit.py."""
    net = DipoleNet()
    net.load_state_dict(torch.load(path, weights_only=True)["mean"])
    return net.eval()


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("-o", "--out", type=Path, default=Path("models"))
    p.add_argument("--name", choices=CARDS, default="dipole")
    a = p.parse_args()
    made = package.write(a.out, trained(a.checkpoint), CARDS[a.name]())
    print(f"{a.out / made.file.name}: sha256 {made.file.sha256[:12]}, equal to torch at two sizes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
