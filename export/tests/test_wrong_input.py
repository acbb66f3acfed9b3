"""A published network cannot be fed wrongly: MoG-QSM from its checkpoint, and everything that can be wrong with it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import package
from export.catalogue import NETWORKS
from export.spec import read_statistics
from qsm_runtime.errors import InputError, ModelError, QsmError, ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion.network import network
from qsm_runtime.networks.runtime import Runtime
from qsm_runtime.phantom import simulate_head
from qsm_runtime.units import hz_per_ppm

SHARED = Path(os.environ.get("QSM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
WEIGHTS = SHARED.parent / "weights"
GRID = Grid((64, 76, 64), (2.6, 2.6, 2.6))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (WEIGHTS / "mog_qsm.h5").exists():
        pytest.skip(f"published weights not found at {WEIGHTS} (set QSM_SHARED_DATA)")
    spec, folder = NETWORKS["mog"], tmp_path_factory.mktemp("mog")
    net = spec.build()
    found = {**spec.load(WEIGHTS / "mog_qsm.h5", net)}
    found |= read_statistics(WEIGHTS / "mog_qsm_norm.mat", spec.statistics)
    package.write(folder, net, spec.card(found))
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "mog"))


@pytest.fixture(scope="module")
def head():
    truth = simulate_head(GRID, oversample=1).truth
    return truth.local_ppm, truth.mask


def refused(folder: Path, head, *, kind: type[QsmError], says: str, strict: bool = False, **changed: object) -> None:
    field, mask = (changed.get(name, given) for name, given in zip(("field", "mask"), head, strict=True))
    runtime = Runtime("ort-cpu", models=(folder,), strict=strict)
    with pytest.raises(kind, match=says):
        network(field, mask, changed.get("grid", GRID), model="mog", runtime=runtime)  # type: ignore[arg-type]


def test_hz_given_as_ppm(exported, head):
    refused(exported, head, kind=InputError, says="divide Hz by", field=head[0] * np.float32(hz_per_ppm(3.0)))


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_b0_along_another_axis(exported, head, axis):
    refused(
        exported, head, kind=InputError, says="along the array's z axis", grid=Grid(GRID.shape, GRID.voxel_mm, axis)
    )


def test_a_turned_sign(exported, head):
    refused(exported, head, kind=InputError, says="sign of the phase is turned", field=-head[0])


def test_voxels_that_are_not_the_scans(exported, head):
    wrong = Grid(GRID.shape, (2.6, 2.6, 5.2))
    refused(exported, head, kind=InputError, says="signature of voxels of 2.6x2.6x2.6 mm", grid=wrong)


def test_voxels_out_of_its_domain_are_resampled_or_refused(exported, head):
    refused(exported, head, kind=ReconstructionError, says="outside what network mog was trained on", strict=True)


def test_voxels_that_the_network_does_not_know(folder, head):
    card = json.loads((folder / "mog.json").read_text())
    card["geometry"]["resample"] = "none"
    (folder / "mog.json").write_text(json.dumps(card))
    refused(folder, head, kind=InputError, says="voxels of 1x1x1 mm and its card forbids resampling")


def test_no_mask(exported, head):
    refused(exported, head, kind=ReconstructionError, says="empty", mask=np.zeros_like(head[1]))


def test_a_tensor_of_another_name(folder, head):
    card = json.loads((folder / "mog.json").read_text())
    card["inputs"][0]["tensor"] = "field"
    card["normalisation"]["inputs"] = {"field": card["normalisation"]["inputs"]["x"]}
    (folder / "mog.json").write_text(json.dumps(card))
    refused(folder, head, kind=ModelError, says="no such input: its inputs are 'x'")


def test_half_a_file(folder, head):
    data = (folder / "mog.onnx").read_bytes()
    (folder / "mog.onnx").write_bytes(data[: len(data) // 2])
    refused(folder, head, kind=ModelError, says="truncated")


def test_one_bit(folder, head):
    data = bytearray((folder / "mog.onnx").read_bytes())
    data[-1000] ^= 1
    (folder / "mog.onnx").write_bytes(bytes(data))
    refused(folder, head, kind=ModelError, says="its sha256 is")
