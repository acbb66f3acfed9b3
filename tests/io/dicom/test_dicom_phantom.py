"""The simulated head sent through every vendor's DICOM and orientation comes back as it was, and so does its map.

GE's objects are made by the standard and the vendor's conformance statement; no real GE sample was at hand.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from qsm_runtime.cli import main
from qsm_runtime.grid import Grid
from qsm_runtime.io import find_acquisitions, read_map
from qsm_runtime.io.dicom import assemble
from qsm_runtime.phantom import simulate_head

SHAPE, VOXEL_MM, ECHO_TIMES_S = (40, 48, 40), (4.0, 4.0, 4.0), (0.004, 0.009, 0.014)
FULL_SCALE = 4000
RECIPE = """
description = "quick"
[mask]
method = "brain"
[offset]
method = "mcpc3ds"
[unwrap]
method = "romeo"
[field]
method = "weighted"
[background]
method = "sharp"
radius_mm = 6.0
[inversion]
method = "tkd"
[reference]
method = "whole_mask"
"""
LPS = np.diag([-1.0, -1.0, 1.0])
# direction of the row, column and slice in array axes (0, 1, 2: right, anterior, superior), and their signs
CUTS = {
    "axial": ((0, -1), (1, -1), (2, 1)),
    "sagittal": ((1, -1), (2, -1), (0, 1)),
    "coronal": ((0, -1), (2, -1), (1, 1)),
}


@pytest.fixture(scope="module")
def head():
    """A head in a tilted box: affine, and its scan."""
    a, b = np.radians((12.0, 8.0))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_y @ about_x * VOXEL_MM
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) / 2) + (1.5, -2.25, 3.0)
    return affine, simulate_head(Grid.from_affine(SHAPE, affine), echo_times_s=ECHO_TIMES_S, oversample=1).scan


def protocol_of(kit, head, vendor, cut):
    affine, scan = head
    axes = CUTS[cut]
    unit = LPS @ affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    directions = [sign * unit[:, axis] for axis, sign in axes]
    first = [SHAPE[axis] - 1 if sign < 0 else 0 for axis, sign in sorted(axes)]
    if np.cross(directions[0], directions[1]) @ directions[2] < 0:  # planes are sorted anyway: count them back
        last = axes[2][0]
        first[last] = SHAPE[last] - 1 - first[last]
    scale = FULL_SCALE / scan.magnitude.max()
    back = np.linalg.inv(affine)

    @dataclass
    class Head(kit.Protocol):
        def values(self, place, echo):
            world = np.tensordot(LPS, place, 1)
            index = np.rint(np.tensordot(back[:3, :3], world, 1) + back[:3, 3, None, None]).astype(int)
            at = tuple(index)
            return np.rint(scan.magnitude[(echo, *at)] * scale), scan.phase_rad[(echo, *at)]

    protocol = Head(
        vendor=vendor,
        orientation=tuple(np.concatenate(directions[:2])),
        shape=tuple(SHAPE[axis] for axis, _ in axes),
        spacing_mm=tuple(VOXEL_MM[axis] for axis, _ in axes),
        origin=tuple(LPS @ (affine[:3, :3] @ first + affine[:3, 3])),
        echo_times_ms=tuple(1000 * t for t in ECHO_TIMES_S),
        acquisition="3D",
        frequency_mhz=3 * 42.577478518,
    )
    return protocol, scale


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize(
    ("vendor", "style", "parts"),
    [
        ("siemens", "classic", ("magnitude", "phase")),
        ("siemens-xa", "enhanced", ("magnitude", "phase")),
        ("philips", "classic", ("magnitude", "phase")),
        ("philips", "enhanced", ("magnitude", "phase")),
        ("ge", "classic", ("magnitude", "phase")),
        ("ge", "classic", ("real", "imaginary")),
    ],
)
def test_head_comes_back(kit, head, vendor, style, parts, cut):
    affine, scan = head
    protocol, scale = protocol_of(kit, head, vendor, cut)
    (found,) = assemble(getattr(kit, style)(protocol, parts))
    acq = found.read(threads=1)
    np.testing.assert_allclose(acq.affine, affine, atol=1e-4)
    np.testing.assert_allclose(acq.scan.grid.b0_dir, scan.grid.b0_dir, atol=1e-6)
    assert acq.scan.b0_tesla == pytest.approx(3.0)
    scale *= {"philips": {"classic": 2.0, "enhanced": 1.25}}.get(vendor, {}).get(style, 1.0)
    sent = scan.magnitude * scale * np.exp(1j * scan.phase_rad)
    got = acq.scan.magnitude * np.exp(1j * acq.scan.phase_rad)
    if vendor == "ge":  # which half of the slices is negated is one constant
        got *= np.sign((got * sent.conj()).real.sum())
    one_level = 2 * np.pi / 4095 + 0.5 / FULL_SCALE  # of phase, and half a one of magnitude
    assert np.abs(got - sent).max() < one_level * np.abs(sent).max()


@pytest.fixture(scope="module")
def folder(kit, head, tmp_path_factory):
    protocol, _ = protocol_of(kit, head, "siemens", "sagittal")
    return kit.save(kit.classic(protocol), tmp_path_factory.mktemp("dicom"), name=lambda i: f"{i % 5}/IM{i:04d}")


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_map_of_a_dicom_folder_is_that_of_the_scan(kit, head, folder, tmp_path, capsys):
    from qsm_runtime import pipeline, recipe

    (tmp_path / "quick.toml").write_text(RECIPE)
    options = ["--recipe", tmp_path / "quick.toml", "-o", tmp_path / "out", "--json", "--no-picture", "-q"]
    code, out, err = run(capsys, "run", folder, *options)
    assert code == 0, err
    (done,) = json.loads(out)["scans"]
    chi = read_map(done["outputs"]["chi"])
    affine, _ = head
    np.testing.assert_allclose(chi.placement.affine, affine, atol=1e-3)
    sidecar = json.loads((tmp_path / "out" / f"{done['name']}_Chimap.json").read_text())
    assert "series 7 magnitude for series 8 phase" in sidecar["SeriesChoice"]
    assert all(source.startswith("urn:oid:") for source in sidecar["Sources"])
    acq = find_acquisitions(folder)[0].read()
    again = pipeline.reconstruct(acq.scan, recipe.load(str(tmp_path / "quick.toml")))
    np.testing.assert_array_equal(chi.array, again.chi_ppm)


def test_inspect(folder, tmp_path, capsys):
    code, out, _ = run(capsys, "inspect", folder)
    assert code == 0
    assert "series-8_gre-qsm: complete" in out
    assert "48x40x40" in out
    code, out, _ = run(capsys, "inspect", folder, "--json")
    document = json.loads(out)
    assert code == document["exit_code"] == 0
    assert document["format"] == "dicom"
    assert document["scans"][0]["echo_times_ms"] == [4, 9, 14]
    assert [series["part"] for series in document["series"]] == ["magnitude", "phase"]
    assert "Doe" not in out


def test_inspect_says_what_is_missing(kit, tmp_path, capsys):
    datasets = kit.classic(kit.Protocol())
    kit.save(datasets[:-1], tmp_path / "half")
    code, out, _ = run(capsys, "inspect", tmp_path / "half")
    assert code == 3
    assert "missing: series 8 phase: echo 3 (14 ms) lacks 1 of 6 slices" in out
    code, out, _ = run(capsys, "inspect", tmp_path / "half", "--json")
    assert code == json.loads(out)["exit_code"] == 3
    code, _, err = run(capsys, "run", tmp_path / "half", "-o", tmp_path / "out")
    assert code == 3
    assert "lacks 1 of 6 slices" in err
    assert not (tmp_path / "out").exists()


def test_inspect_other_folders(tmp_path, capsys):
    code, _, err = run(capsys, "inspect", tmp_path / "nowhere")
    assert code == 3
    assert "no such folder" in err
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == 3
    assert "give the images" in err
