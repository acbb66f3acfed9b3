"""`qsm orient` on turned heads whose fields are known in closed form, and on simulated scans; wrong input by purpose.

A sphere of radius a and susceptibility tensor X makes the field a^3/(3 r^3) (3 (m.n)(n.b) - m.b) outside, m = X b,
and none inside (the sphere of Lorentz taken out), whatever the head's orientation.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

HEAD_MM, OFFSET_MM = 15.0, np.array([2.0, -1.0, 1.5])  # a ball that does not turn about its own centre
AXIS = np.array([1.0, 2.0, 2.0]) / 3
SPHERES = (  # centre, radius in mm, mean susceptibility, anisotropy (about AXIS) in ppm
    (np.array([4.0, 2.0, -1.0]), 5.0, 0.2, 0.0),
    (np.array([-4.0, -3.0, 3.0]), 5.0, -0.1, 0.06),
)
TURNS = ("z", 0), ("x", 25), ("y", 28), ("x", -30), ("y", -24), ("xy", (20, 20)), ("xy", (-22, 18)), ("xy", (20, -24))


@dataclass(frozen=True)
class Turned:
    """Files of a head scanned in several orientations, oblique slabs of their own."""

    fields: list[Path]
    masks: list[Path]
    transforms: list[Path]
    affines: list[np.ndarray]


def tensor_of(mean: float, anisotropy: float) -> np.ndarray:
    return mean * np.eye(3) + anisotropy * (np.outer(AXIS, AXIS) - np.eye(3) / 3)


def field_at(points: np.ndarray, b: np.ndarray, isotropic: bool) -> np.ndarray:
    """Field in ppm at head coordinates (3, ...) with B0 along b."""
    total = np.zeros(points.shape[1:])
    for centre, radius, mean, anisotropy in SPHERES:
        moment = tensor_of(mean, 0.0 if isotropic else anisotropy) @ b
        away = points - centre[:, None, None, None]
        r = np.sqrt((away**2).sum(0))
        n = away / np.maximum(r, 1e-9)
        made = 3 * np.einsum("i,i...", moment, n) * np.einsum("i,i...", b, n) - moment @ b
        total += np.where(r > radius, made * radius**3 / (3 * np.maximum(r, radius) ** 3), 0)
    return total


def placed(shape, voxel_mm, tilt) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() * voxel_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def world_points(shape, affine) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def write_head(folder: Path, isotropic: bool) -> Turned:
    made = Turned([], [], [], [])
    for n, (axes, degrees) in enumerate(TURNS):
        turn = Rotation.from_euler(axes, degrees, degrees=True).as_matrix()  # head to world of scan n
        shape, voxel_mm = ((34, 32, 36), (1.0, 1.1, 1.0)) if n % 2 == 0 else ((37, 33, 30), (1.0, 1.0, 1.2))
        affine = placed(shape, voxel_mm, (4 * n - 10, 6 - 3 * n, 5 + 2 * n))
        points = world_points(shape, affine)
        head = np.einsum("ji,j...->i...", turn, points)
        inside = ((head - OFFSET_MM[:, None, None, None]) ** 2).sum(0) < HEAD_MM**2
        field = field_at(head, turn.T @ (0, 0, 1), isotropic)
        made.fields.append(
            save(folder / f"sub-1_acq-{n}_desc-local_fieldmap.nii.gz", (field * inside).astype(np.float32), affine)
        )
        (folder / f"sub-1_acq-{n}_desc-local_fieldmap.json").write_text('{"Units": "ppm"}')
        made.masks.append(save(folder / f"sub-1_acq-{n}_mask.nii.gz", inside.astype(np.uint8), affine))
        back = np.eye(4)
        back[:3, :3] = turn.T
        made.transforms.append(folder / f"to_first_{n}.txt")
        np.savetxt(made.transforms[-1], back)
        made.affines.append(affine)
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Turned:
    return write_head(tmp_path_factory.mktemp("isotropic"), True)


@pytest.fixture(scope="module")
def woven(tmp_path_factory) -> Turned:
    return write_head(tmp_path_factory.mktemp("anisotropic"), False)


def given(head: Turned, count: int = len(TURNS)) -> list[object]:
    return ["--fields", *head.fields[:count], "--masks", *head.masks[:count], "--transform", *head.transforms[:count]]


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def regions(head: Turned, shape) -> list[np.ndarray]:
    """Voxels well inside either sphere, and those away from both, of the first orientation."""
    points = world_points(shape, head.affines[0])
    r = [np.sqrt(((points - centre[:, None, None, None]) ** 2).sum(0)) - radius for centre, radius, *_ in SPHERES]
    return [r[0] < -1.5, r[1] < -1.5, (r[0] > 2) & (r[1] > 2)]


def test_cosmos_gives_the_susceptibility(qsm, plain, tmp_path):
    ran = qsm("orient", *given(plain, 5), "-o", tmp_path, "--reference", "none", "--json")
    assert ran.code == 0, ran.err
    path = tmp_path / "sub-1_Chimap.nii.gz"
    assert ran.document["outputs"]["chi"] == str(path)
    chi, mask = load(path), load(tmp_path / "sub-1_desc-qsm_mask.nii.gz") > 0
    first, second, rest = regions(plain, chi.shape)
    base = chi[rest & mask].mean()
    assert chi[first & mask].mean() - base == pytest.approx(0.2, abs=0.01)
    assert chi[second & mask].mean() - base == pytest.approx(-0.1, abs=0.01)
    assert not chi[~mask].any()
    np.testing.assert_allclose(nib.load(path).affine, plain.affines[0], atol=1e-5)
    told = json.loads((tmp_path / "sub-1_Chimap.json").read_text())
    assert told["Units"] == "ppm"
    assert [round(o["AngleDegrees"]) for o in told["Orientations"]] == [0, 25, 28, 30, 24]
    assert told["Orientations"][1]["Sources"][0] == plain.fields[1].name
    np.testing.assert_allclose(told["Orientations"][1]["Transform"], np.loadtxt(plain.transforms[1]))
    assert 1 < told["ConditionNumber"] == ran.document["ConditionNumber"] < 30


def test_sti_gives_the_tensor(qsm, woven, tmp_path):
    ran = qsm("orient", *given(woven), "-o", tmp_path, "--method", "sti", "--name", "head", "-q")
    assert ran.code == 0, ran.err
    assert ran.out == ""
    mean, anisotropy, tensor, axis = (
        load(tmp_path / f"head_{end}.nii.gz")
        for end in ("Chimap", "desc-anisotropy_Chimap", "desc-tensor_Chimap", "desc-principal_eigenvector")
    )
    mask = load(tmp_path / "head_desc-qsm_mask.nii.gz") > 0
    first, second, rest = (part & mask for part in regions(woven, mean.shape))
    assert tensor.shape == (*mean.shape, 6)
    assert axis.shape == (*mean.shape, 3)
    assert mean[first].mean() - mean[rest].mean() == pytest.approx(0.2, abs=0.02)
    assert mean[second].mean() - mean[rest].mean() == pytest.approx(-0.1, abs=0.02)
    columns = woven.affines[0][:3, :3]
    axes = columns / np.linalg.norm(columns, axis=0)
    truth = axes.T @ tensor_of(-0.1, 0.06) @ axes - axes.T @ np.zeros((3, 3)) @ axes
    found = tensor[second].mean(0) - tensor[rest].mean(0)
    want = [truth[a, b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    np.testing.assert_allclose(found, want, atol=0.02)
    assert np.median(anisotropy[second]) == pytest.approx(0.06, abs=0.02)
    along = np.abs(axis[second] @ (axes.T @ AXIS))
    assert np.median(along) > np.cos(np.radians(20))
    np.testing.assert_allclose(mean[mask], tensor[mask][:, [0, 3, 5]].mean(1), atol=1e-5)
    told = json.loads((tmp_path / "head_desc-tensor_Chimap.json").read_text())
    assert told["Components"] == ["xx", "xy", "xz", "yy", "yz", "zz"]
    assert told["ReferenceRegion"] == "whole_mask"


def test_glta_gives_the_bulk(qsm, plain, tmp_path):
    ran = qsm("orient", *given(plain), "-o", tmp_path, "--method", "glta", "--name", "head", "--json")
    assert ran.code == 0, ran.err
    chi, lorentz = load(tmp_path / "head_Chimap.nii.gz"), load(tmp_path / "head_desc-lorentz_Chimap.nii.gz")
    first, _, rest = regions(plain, chi.shape)
    assert chi[first].mean() - chi[rest & (chi != 0)].mean() == pytest.approx(0.2, abs=0.03)
    assert lorentz.shape == (*chi.shape, 6)
    assert sorted(ran.document["outputs"]) == ["chi", "lorentz", "mask"]


def test_fields_on_one_grid_take_b0_from_a_file_or_from_their_transforms(qsm, plain, tmp_path):
    """The same array, seen with B0 turned: what a resampled data set looks like."""
    affine, shape = plain.affines[0], (34, 32, 36)
    points, axes = world_points(shape, affine), affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    rows = []
    for n in range(4):
        b = np.loadtxt(plain.transforms[n])[:3, :3] @ (0, 0, 1)
        save(tmp_path / f"f{n}.nii.gz", field_at(points, b, True).astype(np.float32), affine)
        rows.append(axes.T @ b)
    np.savetxt(tmp_path / "b0.txt", rows)
    mask = save(tmp_path / "m.nii.gz", load(plain.masks[0]), affine)
    common = ["--fields", *(tmp_path / f"f{n}.nii.gz" for n in range(4)), "--masks", mask, "--units", "ppm"]
    for name, how in (
        ("a", ["--b0-dirs", tmp_path / "b0.txt"]),
        ("b", ["--align", "voxels", "--transform", *plain.transforms[1:4]]),
    ):
        ran = qsm("orient", *common, *how, "-o", tmp_path, "--name", name)
        assert ran.code == 0, ran.err
    a, b = load(tmp_path / "a_Chimap.nii.gz"), load(tmp_path / "b_Chimap.nii.gz")
    np.testing.assert_allclose(a, b, atol=1e-5)
    first, _, rest = regions(plain, a.shape)
    assert a[first].mean() - a[rest & (a != 0)].mean() == pytest.approx(0.2, abs=0.01)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    """Three simulated scans of one head, slabs turned with it."""
    from qsm_runtime.cli import main

    folders = []
    for n, b0_dir in enumerate(("0,0,1", "0,0.5,0.87", "0.5,0,0.87")):
        folders.append(tmp_path_factory.mktemp(f"scan{n}") / "data")
        command = ["phantom", "-o", str(folders[-1]), "--subject", f"ori{n}", "--matrix", "40,48,40", "--voxel-mm"]
        assert main([*command, "4,4,4", "--b0-dir", b0_dir, "--echo-times-ms", "4,9,14", "-q"]) == 0
    return folders


def test_scans_are_taken_to_local_fields(qsm, scans, recipe, tmp_path):
    common = ("orient", *scans, "--recipe", recipe)
    ran = qsm(*common, "--align", "voxels", "-o", tmp_path, "--name", "head", "--json")
    assert ran.code == 0, ran.err
    chi, mask = load(tmp_path / "head_Chimap.nii.gz"), load(tmp_path / "head_desc-qsm_mask.nii.gz") > 0
    truth = load(next((scans[0] / "derivatives" / "truth").rglob("*_Chimap.nii.gz")))
    assert np.corrcoef(chi[mask], truth[mask])[0, 1] > 0.8
    told = json.loads((tmp_path / "head_Chimap.json").read_text())["Orientations"]
    assert [o["Options"]["background"]["method"] for o in told] == ["sharp"] * 3
    assert all(o["Sources"] for o in told)
    assert "inversion" not in told[0]["Options"]
    affines = [nib.load(next(f.rglob("*echo-1_part-phase*.nii.gz"))).affine for f in scans]
    for n in (1, 2):
        np.savetxt(tmp_path / f"t{n}.txt", affines[0] @ np.linalg.inv(affines[n]))
    ran = qsm(*common, "--transform", tmp_path / "t1.txt", tmp_path / "t2.txt", "-o", tmp_path, "--name", "moved", "-q")
    assert ran.code == 0, ran.err
    moved = load(tmp_path / "moved_Chimap.nii.gz")
    assert np.abs(moved - chi)[mask & (moved != 0)].max() < 0.05 * np.abs(chi).max()


def test_scans_in_the_scanners_world_are_refused_before_any_work(qsm, scans, recipe, tmp_path):
    ran = qsm("orient", *scans, "--recipe", recipe, "-o", tmp_path / "out")
    assert ran.code == 3
    assert "--transform" in ran.err
    assert "--align voxels" in ran.err
    assert "unwrap" not in ran.err
    assert not list((tmp_path / "out").iterdir())


def changed(path: Path, folder: Path, matrix: np.ndarray) -> Path:
    out = folder / path.name
    np.savetxt(out, matrix)
    return out


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([1.0, 1.1, 1.0, 1.0]), "not rigid"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), "mirrors"),
        (np.eye(4) + 0.1 * np.eye(4, k=1), "not rigid"),
        (np.eye(3), "4x4"),
        (np.full((4, 4), np.nan), "4x4"),
    ],
)
def test_transforms_that_are_not_rigid_are_refused(qsm, plain, tmp_path, matrix, message):
    wrong = changed(plain.transforms[2], tmp_path, matrix)
    arguments = [wrong if a == plain.transforms[2] else a for a in given(plain, 4)]
    ran = qsm("orient", *arguments, "-o", tmp_path / "out")
    assert ran.code == 3
    assert message in ran.err
    assert wrong.name in ran.err
    assert not (tmp_path / "out").exists()


def test_a_sheared_slab_is_refused(qsm, plain, tmp_path):
    affine = plain.affines[1].copy()
    affine[:3, 0] += 0.2 * affine[:3, 1]
    image = nib.Nifti1Image(load(plain.fields[1]), affine)
    nib.save(image, tmp_path / "sheared.nii.gz")
    arguments = [tmp_path / "sheared.nii.gz" if a == plain.fields[1] else a for a in given(plain, 4)]
    ran = qsm("orient", *arguments, "--units", "ppm", "-o", tmp_path / "out")
    assert ran.code == 3
    assert "sheared" in ran.err


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [("cosmos", 2, "needs 3"), ("sti", 5, "needs 6"), ("glta", 5, "needs 6"), ("cosmos", 1, "needs 3")],
)
def test_too_few_orientations_are_refused(qsm, plain, tmp_path, method, count, message):
    ran = qsm("orient", *given(plain, count), "--method", method, "-o", tmp_path / "out")
    assert ran.code == 3
    assert message in ran.err
    assert "add scans" in ran.err


def test_orientations_too_much_alike_are_refused(qsm, plain, tmp_path):
    files = []
    for n in range(8):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xy", (n % 3, 0.6 * n), degrees=True).as_matrix()
        files.append(changed(plain.transforms[n], tmp_path, turn))
    for method, count in (("cosmos", 3), ("sti", 8)):
        ran = qsm(
            "orient", "--fields", *plain.fields[:count], "--masks", *plain.masks[:count], "--transform",
            *files[:count], "--method", method, "-o", tmp_path / "out",
        )  # fmt: skip
        assert ran.code == 3
        assert "turn the head further" in ran.err


def test_a_transform_taken_backwards_shows_in_the_masks(qsm, plain, tmp_path):
    wrong = []
    for n in range(4):
        matrix = np.loadtxt(plain.transforms[n])
        matrix[0, 3] = 9.0 if n == 1 else 0.0
        wrong.append(changed(plain.transforms[n], tmp_path, matrix))
    arguments = ["--fields", *plain.fields[:4], "--masks", *plain.masks[:4], "--transform", *wrong]
    ran = qsm("orient", *arguments, "-o", tmp_path / "out", "-q")
    assert ran.code == 0
    assert "not back" in ran.err
    far = np.loadtxt(plain.transforms[1])
    far[0, 3] = 22.0
    np.savetxt(wrong[1], far)
    ran = qsm("orient", *arguments, "-o", tmp_path / "other", "--json")
    assert ran.code == 5
    assert ran.document["error"]["kind"] == "ReconstructionError"
    assert not list((tmp_path / "other").iterdir())


def test_voxel_on_voxel_needs_one_grid(qsm, plain, tmp_path):
    ran = qsm("orient", *given(plain, 4), "--align", "voxels", "-o", tmp_path)
    assert ran.code == 3
    assert "not voxel on voxel" in ran.err


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--method", "cosmo"], 2, "did you mean cosmos"),
        (["--align", "best"], 2, "way to align"),
        (["--reference", "csf"], 2, "reference"),
        (["--reference", "region"], 2, "--region"),
        (["--background", "lbv"], 2, "--background"),
        (["--name", "a/b"], 2, "--name"),
        (["--transform", "nowhere.txt"], 2, "transforms"),
        (["--masks", "nowhere.nii.gz"], 2, "masks"),
        (["--b0-dirs", "nowhere.txt"], 3, "nowhere.txt"),
    ],
)
def test_wrong_options_are_refused(qsm, plain, tmp_path, extra, code, message):
    ran = qsm("orient", *given(plain, 4), *extra, "-o", tmp_path / "out")
    assert ran.code == code, ran.err
    assert message in ran.err


def test_wrong_inputs_are_refused(qsm, plain, tmp_path):
    out = ("-o", tmp_path / "out")
    for arguments, code, message in (
        (["orient", *out], 2, "--fields"),
        (["orient", tmp_path, *given(plain, 4), *out], 2, "folders of scans, or"),
        (["orient", plain.fields[0], *out], 2, "name local fields with --fields"),
        (["orient", *given(plain, 4)], 2, "-o"),
        (["orient", "--fields", *plain.fields[:4], *out], 2, "--masks"),
        (["orient", "--fields", *plain.fields[:4], "--masks", *plain.masks[:3], *out], 2, "4 fields but 3 masks"),
        (["orient", "--fields", *plain.fields[:4], "--masks", *plain.masks[:4], *out], 3, "--transform"),
        (["orient", "--fields", *plain.fields[:4], "--masks", plain.masks[0], *out], 3, "shape"),
        (["orient", tmp_path, "--b0-dirs", plain.transforms[0], *out], 2, "--b0-dirs"),
    ):
        ran = qsm(*arguments)
        assert ran.code == code, (arguments, ran.err)
        assert message in ran.err, (arguments, ran.err)


def test_outputs_are_replaced_on_request_only(qsm, plain, tmp_path):
    path = tmp_path / "head_Chimap.nii.gz"
    path.write_bytes(b"mine")
    ran = qsm("orient", *given(plain, 4), "-o", tmp_path, "--name", "head")
    assert ran.code == 5
    assert "--overwrite" in ran.err
    assert path.read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head_Chimap.nii.gz"]
    assert qsm("orient", *given(plain, 4), "-o", tmp_path, "--name", "head", "--overwrite", "-q").code == 0
    assert load(path).any()
