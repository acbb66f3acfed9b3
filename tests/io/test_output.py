"""Writing: what comes back through nibabel, sidecars, and no half-written file on any failure."""

import errno
import gzip
import json
import os
import subprocess
import sys
import textwrap

import nibabel as nib
import numpy as np
import pytest

from qsm_runtime.errors import OutputError, UsageError
from qsm_runtime.io import (
    KINDS,
    atomic,
    check_outputs,
    find_acquisitions,
    read_map,
    read_mask,
    read_nifti,
    write_map,
    write_maps,
)
from qsm_runtime.io import write_files as write_all
from qsm_runtime.io.gzip_parallel import BLOCK_BYTES, compress


@pytest.fixture
def acquisition(scan_files):
    scan_files.per_echo(Manufacturer="Siemens")
    (scan_files.folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return find_acquisitions(scan_files.folder)[0].read()


@pytest.fixture
def chi(acquisition):
    rng = np.random.default_rng(3)
    return rng.normal(0, 0.1, acquisition.scan.grid.shape).astype(np.float32)


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_maps_come_back_in_the_inputs_frame(acquisition, chi, scan_files, tmp_path):
    mask = chi > 0
    record = {"EstimationAlgorithm": "tv", "Threads": np.int64(2), "Warnings": ["w"], "chi": {"ReferenceValue": 0.5}}
    paths = write_maps(tmp_path / "out", acquisition, {"chi": chi, "mask": mask}, record)
    assert files_below(tmp_path / "out") == [
        "dataset_description.json",
        "sub-1/anat/sub-1_Chimap.json",
        "sub-1/anat/sub-1_Chimap.nii.gz",
        "sub-1/anat/sub-1_desc-qsm_mask.json",
        "sub-1/anat/sub-1_desc-qsm_mask.nii.gz",
    ]
    image, source = nib.load(paths["chi"]), nib.load(acquisition.source_paths[0])
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), chi)
    np.testing.assert_array_equal(image.affine, source.affine)
    for field in ("sform_code", "qform_code"):
        assert image.header[field] == source.header[field]
    np.testing.assert_allclose(image.header.get_zooms(), source.header.get_zooms())
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(nib.load(paths["mask"]).get_fdata(), mask)
    sidecar = json.loads((tmp_path / "out/sub-1/anat/sub-1_Chimap.json").read_text())
    assert sidecar["Units"] == "ppm"
    assert sidecar["ReferenceValue"] == 0.5
    assert sidecar["Threads"] == 2
    assert sidecar["EchoTime"] == list(scan_files.echo_times_s)
    assert sidecar["Warnings"] == [*acquisition.warnings, "w"]
    assert sidecar["Sources"][0] == "bids:raw:sub-1/anat/sub-1_echo-1_part-mag_MEGRE.nii.gz"
    assert "ReferenceValue" not in json.loads((tmp_path / "out/sub-1/anat/sub-1_desc-qsm_mask.json").read_text())
    described = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert (tmp_path / "out" / described["DatasetLinks"]["raw"]).resolve() == scan_files.folder.resolve()


@pytest.mark.parametrize(
    "header",
    [{"qform_code": 1, "sform_code": 0}, {"qform_code": 0, "sform_code": 2}, {"qform_code": 1, "sform_code": 4}],
)
def test_orientation_codes_are_kept(scan_files, tmp_path, header):
    phase = scan_files.image("p.nii", scan_files.siemens(0), **header)
    magnitude = scan_files.image("m.nii", scan_files.magnitude[0], **header)
    acq = read_nifti([magnitude], [phase], echo_times_s=[0.01], b0_tesla=3)
    path = write_maps(tmp_path / "out", acq, {"local": acq.scan.phase_rad[0]}, {})["local"]
    assert path == tmp_path / "out" / "p_desc-local_fieldmap.nii.gz"
    image, source = nib.load(path), nib.load(phase)
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
    assert {k: int(image.header[k]) for k in header} == header
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_every_kind_has_its_own_name_and_units(acquisition, chi, tmp_path):
    maps = {kind: chi > 0 if kind == "mask" else chi for kind in KINDS}
    paths = write_maps(tmp_path, acquisition, maps, {})
    assert len(set(paths.values())) == len(KINDS)
    for kind, path in paths.items():
        np.testing.assert_array_equal(read_map(path).array, maps[kind].astype(np.float32))
    with pytest.raises(UsageError, match="is none of chi"):
        check_outputs(tmp_path, acquisition, ["ch1"])


def test_same_map_gives_the_same_bytes_for_any_threads(acquisition, chi, tmp_path):
    names = [write_maps(tmp_path / str(n), acquisition, {"chi": chi}, {}, threads=n)["chi"] for n in (1, 2, 3)]
    assert len({p.read_bytes() for p in names}) == 1


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17])
def test_gzip_is_one_ordinary_member(size):
    data = np.random.default_rng(size).integers(0, 4, size, dtype=np.uint8).tobytes()
    parts = compress(memoryview(data), 2)
    assert gzip.decompress(b"".join(parts)) == data
    assert sum(part.startswith(b"\x1f\x8b\x08") for part in parts) == 1


def test_existing_outputs_and_inputs_are_kept(acquisition, chi, scan_files, tmp_path):
    path = write_maps(tmp_path, acquisition, {"chi": chi}, {})["chi"]
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"sub-1_Chimap.nii.gz exists.*--overwrite"):
        write_maps(tmp_path, acquisition, {"chi": 2 * chi}, {})
    assert path.read_bytes() == before
    write_maps(tmp_path, acquisition, {"chi": 2 * chi}, {}, overwrite=True)
    np.testing.assert_array_equal(read_map(path).array, 2 * chi)
    source = acquisition.source_paths[0]
    with pytest.raises(OutputError, match="is an input"):
        write_map(source, chi, acquisition.placement, {}, inputs=acquisition.source_paths, overwrite=True)
    with pytest.raises(OutputError, match="raw BIDS dataset"):
        check_outputs(scan_files.folder, acquisition, ["chi"])


def test_map_by_path(acquisition, chi, tmp_path):
    placement = acquisition.placement
    write_map(tmp_path / "a.nii", chi, placement, {"Units": "ppm"})
    write_map(tmp_path / "b.nii.gz", chi > 0, placement, {})
    write_map(tmp_path / "c.nii.gz", acquisition.scan.phase_rad, placement, {})
    again = read_map(tmp_path / "a.nii")
    np.testing.assert_array_equal(again.array, chi)
    assert again.meta == {"Units": "ppm"}
    assert again.grid.shape == acquisition.scan.grid.shape
    assert again.grid.voxel_mm == pytest.approx(acquisition.scan.grid.voxel_mm, rel=1e-6)
    mask, _ = read_mask(tmp_path / "b.nii.gz", tmp_path / "a.nii")
    np.testing.assert_array_equal(mask, chi > 0)
    echoes = np.moveaxis(nib.load(tmp_path / "c.nii.gz").get_fdata(dtype=np.float32), -1, 0)
    np.testing.assert_array_equal(echoes, acquisition.scan.phase_rad)
    with pytest.raises(UsageError, match=r"ends in .nii.gz"):
        write_map(tmp_path / "a.png", chi, placement, {})


def test_not_finite_is_not_written(acquisition, chi, tmp_path):
    with pytest.raises(OutputError, match="not finite"):
        write_maps(tmp_path / "out", acquisition, {"mask": chi > 0, "chi": np.full_like(chi, np.nan)}, {})
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failing_write_leaves_nothing(acquisition, chi, tmp_path, monkeypatch, code):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    message = "disk is full: free space" if code == errno.ENOSPC else "Input/output error"
    with pytest.raises(OutputError, match=message):
        write_maps(tmp_path / "out", acquisition, {"chi": chi, "mask": chi > 0}, {})
    assert len(calls) == 3
    assert files_below(tmp_path / "out") == []


def test_interrupt_leaves_nothing(acquisition, chi, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        write_maps(tmp_path / "out", acquisition, {"chi": chi}, {})
    assert files_below(tmp_path / "out") == []


def test_failure_keeps_the_old_map(acquisition, chi, tmp_path, monkeypatch):
    path = write_maps(tmp_path, acquisition, {"chi": chi}, {})["chi"]

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(OutputError):
        write_maps(tmp_path, acquisition, {"chi": 2 * chi}, {}, overwrite=True)
    np.testing.assert_array_equal(read_map(path).array, chi)


def test_file_size_limit(tmp_path):
    """A real failing write(2), in a process of its own."""
    pytest.importorskip("resource", reason="no file size limit on this system")
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from qsm_runtime.errors import OutputError
        from qsm_runtime.io import write_files
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_files({Path(sys.argv[1]) / "a.nii": [bytes(100)], Path(sys.argv[1]) / "b.nii": [bytes(10000)]})
        except OutputError as error:
            print(error)
    """)
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "b.nii: cannot be written; the file would exceed" in run.stdout
    assert files_below(tmp_path) == []


def test_folder_that_cannot_be_written(acquisition, chi, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        check_outputs(tmp_path / "file", acquisition, ["chi"])
    monkeypatch.setattr(atomic.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="no permission: choose another folder"):
        check_outputs(tmp_path / "out", acquisition, ["chi"])


def test_other_files_are_written_all_or_none(tmp_path):
    write_all({tmp_path / "x" / "a.png": [b"1", b"2"], tmp_path / "b.toml": [b"3"]})
    assert (tmp_path / "x" / "a.png").read_bytes() == b"12"
    with pytest.raises(OutputError, match=r"b.toml exists"):
        write_all({tmp_path / "c.toml": [b"4"], tmp_path / "b.toml": [b"5"]})
    assert not (tmp_path / "c.toml").exists()
    (tmp_path / "d").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_all({tmp_path / "d": [b"4"]})
