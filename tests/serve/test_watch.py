"""The watched folder: what is taken, when, what becomes of it, and that originals are never lost or changed."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time

import nibabel as nib
import numpy as np
import pydicom
import pytest
from patience import PATIENCE_S, until
from serve_kit import FakeCore
from watch_kit import Watching, claims, contents, study

from qsm_runtime import load_recipe, reconstruct
from qsm_runtime.cli import main
from qsm_runtime.cli.job import software_versions
from qsm_runtime.errors import InputError, OutputError, UsageError
from qsm_runtime.io import find_acquisitions
from qsm_runtime.serve import watch, watch_claims, watch_job
from qsm_runtime.serve.keep import DAY_S
from qsm_runtime.serve.settings import Answer
from qsm_runtime.serve.watch import MAX_TRIES, Watch


@pytest.fixture
def permissions(tmp_path):
    """Skips where modes of folders stop nobody: for root, and on Windows."""
    (tmp_path / "closed").mkdir(mode=0o500)
    try:
        (tmp_path / "closed" / "file").touch()
    except PermissionError:
        return
    pytest.skip("this user may write everywhere")


@pytest.fixture(autouse=True)
def own_salt(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QSM_DATA_DIR", str(tmp_path_factory.mktemp("salt")))


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    """A dataset of one simulated head, sub-sim."""
    folder, size = tmp_path_factory.mktemp("simulated") / "ds", ["--matrix", "16,20,16", "--voxel-mm", "8,8,8"]
    assert main(["phantom", "-o", str(folder), *size, "--echo-times-ms", "4,9", "-q"]) == 0
    return folder


def maps_in(out):
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*_Chimap.nii.gz"))


def test_a_folder_becomes_maps_and_ends_in_done_untouched(tmp_path):
    made = study(tmp_path / "elsewhere" / "SMITH^JOHN 1950")
    before = contents(made[0].parent)
    with Watching(tmp_path) as w:
        shutil.move(made[0].parent, w.inbox)
        ((folder, record),) = w.ended("done")
    assert contents(folder / "data" / "SMITH^JOHN 1950") == before
    assert record["state"] == "done"
    assert record["drop"] == "SMITH^JOHN 1950"
    (path,) = maps_in(w.out)
    assert path.startswith(folder.name + "/")
    acquisition = w.core.asked[0][1]
    got = nib.load(w.out / path)
    np.testing.assert_allclose(got.affine, acquisition.affine, atol=1e-5)
    np.testing.assert_allclose(got.get_fdata(), acquisition.scan.magnitude.mean(0) / 10000, rtol=1e-6)
    assert os.listdir(w.inbox / "working") == [".lock"]
    assert sorted(p.name for p in w.out.iterdir()) == [folder.name]


def test_the_log_names_nobody_and_the_study_by_its_hash(tmp_path):
    with Watching(tmp_path) as w:
        paths = study(w.inbox / "SMITH^JOHN")
        w.ended("done")
    header = pydicom.dcmread(claims(w.inbox, "done")[0] / "data" / "SMITH^JOHN" / paths[0].name)
    assert "SMITH" not in w.said
    assert not re.search(r"\d+(\.\d+){5,}", w.said)
    hashes = {line["study"] for line in w.events() if "study" in line}
    assert len(hashes) == 1
    assert header.StudyInstanceUID not in hashes
    assert [line["event"] for line in w.events()] == ["watch.taken", "watch.answered", "watch.done"]


def test_what_fails_is_logged_without_names_too(tmp_path):
    w = Watching(tmp_path, give_up_s=2.0)
    study(w.inbox / "SMITH, JOHN (1950)", keep=-1)
    os.mkfifo(w.inbox / "SMITH JOHN; pipe")
    (w.inbox / "SMITH JOHN.txt").write_text("SMITH")
    converted = w.inbox / "converted"
    converted.mkdir()
    for name in ("SMITH JOHN_e1_ph.nii.gz", "SMITH JOHN_e2_ph.nii.gz"):
        (converted / name).write_bytes(b"cut short")
    with w:
        ended = w.ended("failed", 4)
    said = w.said + json.dumps(w.watch.state())
    assert "SMITH" not in said
    assert "JOHN" not in said
    assert len(w.events("watch.incomplete")) == 3
    reasons = "".join((folder / "reason.txt").read_text() for folder, _ in ended)
    assert reasons.count("SMITH JOHN") >= 2  # beside the originals they are named


def test_loose_files_of_two_studies_mixed_become_two_answers(tmp_path):
    w = Watching(tmp_path)
    study(w.inbox, prefix="a", number=3)
    study(w.inbox, prefix="b", number=5, echo_times_ms=(5.0, 10.0, 15.0))
    with w:
        ended = w.ended("done", 2)
    assert sorted(len(list((folder / "data").iterdir())) for folder, _ in ended) == [24, 36]
    for folder, _ in ended:
        assert len({p.name[0] for p in (folder / "data").iterdir()}) == 1
    assert len(maps_in(w.out)) == 2
    assert [p.name for p in w.inbox.iterdir() if p.is_file()] == []


def test_several_studies_in_one_folder_are_answered_from_one_drop(tmp_path):
    with Watching(tmp_path) as w:
        study(tmp_path / "drop" / "one", number=3)
        study(tmp_path / "drop" / "two", number=5)
        os.rename(tmp_path / "drop", w.inbox / "drop")
        ((_, record),) = w.ended("done")
    assert len(record["scans"]) == len(maps_in(w.out)) == 2


def test_a_bids_dataset_is_taken_as_one_drop(tmp_path, bids):
    shutil.copytree(bids, tmp_path / "ds")
    with Watching(tmp_path) as w:
        os.rename(tmp_path / "ds", w.inbox / "ds")
        ((folder, record),) = w.ended("done")
    assert maps_in(w.out) == [f"{folder.name}/sub-sim/anat/sub-sim_Chimap.nii.gz"]
    assert record["scans"][0]["scan"] == "sub-sim"


def test_loose_nifti_files_are_found_by_name(tmp_path, bids):
    shutil.copytree(bids, tmp_path / "ds")
    w = Watching(tmp_path)
    for path in (tmp_path / "ds" / "sub-sim" / "anat").iterdir():
        shutil.copy(path, w.inbox / path.name)
    with w:
        ((folder, record),) = w.ended("done")
    assert record["loose"]
    assert len(maps_in(w.out)) == 1
    assert len(list((folder / "data").iterdir())) == 8


def test_a_study_still_being_written_is_waited_for(tmp_path):
    source = study(tmp_path / "source")
    with Watching(tmp_path) as w:
        (w.inbox / "drop").mkdir()
        for path in source[:-1]:
            shutil.copy(path, w.inbox / "drop")
        until(lambda: w.events("watch.incomplete"))  # it is quiet, but the last plane is missing
        assert claims(w.inbox, "working") == []
        whole = source[-1].read_bytes()
        last = w.inbox / "drop" / source[-1].name
        for end in (len(whole) // 3, len(whole) // 2):  # it grows: neither quiet nor whole
            last.write_bytes(whole[:end])
            time.sleep(0.5)
            assert claims(w.inbox, "working") == []
        last.write_bytes(whole)
        ((_, record),) = w.ended("done")
    assert len(record["scans"]) == 1
    assert all(line["lacks"] for line in w.events("watch.incomplete"))


def test_a_file_under_a_temporary_name_is_waited_for(tmp_path):
    w = Watching(tmp_path)
    paths = study(w.inbox / "drop")
    os.rename(paths[-1], f"{paths[-1]}.part")
    with w:
        until(lambda: w.events("watch.incomplete"))
        (w.inbox / "loose.dcm.part").write_bytes(b"a browser's")
        os.rename(f"{paths[-1]}.part", paths[-1])
        w.ended("done")
    assert (w.inbox / "loose.dcm.part").exists()


def test_an_incomplete_study_fails_when_given_up_and_says_what_is_missing(tmp_path):
    with Watching(tmp_path, give_up_s=1.0) as w:
        paths = study(w.inbox / "drop", keep=-1)
        before = contents(w.inbox / "drop")
        ((folder, record),) = w.ended("failed")
    assert len(before) == len(paths) == 23
    assert contents(folder / "data" / "drop") == before
    assert record["scans"][0]["error"]["kind"] == "InputError"
    reason = (folder / "reason.txt").read_text()
    assert "incomplete" in reason
    assert str(w.inbox) in reason
    assert maps_in(w.out) == []


def test_what_is_complete_of_a_given_up_drop_is_answered(tmp_path):
    with Watching(tmp_path, give_up_s=1.0) as w:
        study(tmp_path / "drop" / "one", number=3)
        study(tmp_path / "drop" / "two", number=5, keep=-1)
        os.rename(tmp_path / "drop", w.inbox / "drop")
        ((folder, record),) = w.ended("failed")
    assert sorted("error" in scan for scan in record["scans"]) == [False, True]
    assert len(maps_in(w.out)) == 1
    assert f"maps in {w.out / folder.name}" in (folder / "reason.txt").read_text()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.txt", b"hello", "no DICOM images"),
        ("study.zip", b"PK\3\4", "unpack"),
        ("noise.dcm", bytes(range(256)) * 64, "no DICOM images"),
        ("cut.dcm", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0", "export"),
    ],
)
def test_foreign_files_fail_alone_and_the_rest_goes_on(tmp_path, name, data, said):
    w = Watching(tmp_path, give_up_s=1.0)
    (w.inbox / name).write_bytes(data)
    study(w.inbox, prefix="a")
    with w:
        w.ended("done")
        ((folder, _),) = w.ended("failed")
    assert (folder / "data" / name).read_bytes() == data
    assert said in (folder / "reason.txt").read_text()


def test_a_file_that_is_no_image_does_not_harm_the_study_in_its_folder(tmp_path):
    with Watching(tmp_path) as w:
        study(tmp_path / "drop")
        for name in ("report.pdf", "DICOMDIR", ".DS_Store", "viewer.exe", "notes.zip"):
            (tmp_path / "drop" / name).write_bytes(b"MZ\0\1" * 100)
        os.rename(tmp_path / "drop", w.inbox / "drop")
        ((folder, _),) = w.ended("done")
    assert len(contents(folder / "data" / "drop")) == 29


def test_damaged_headers_are_sorted_out_and_every_file_is_kept(tmp_path):
    """Bytes of the header turned at random: whatever a reader makes of it, the watch goes on."""
    rng = np.random.default_rng(5)
    (good, *_) = study(tmp_path / "made")
    for number in range(40):
        data = bytearray(good.read_bytes())
        for place in rng.integers(100, len(data) - 240, 12):
            data[place] = rng.integers(256)
        (tmp_path / "made" / f"damaged{number:02d}").write_bytes(bytes(data))
    w = Watching(tmp_path, give_up_s=1.0)
    for path in sorted((tmp_path / "made").glob("damaged*")):
        shutil.copy(path, w.inbox)
    with w:
        until(lambda: not [p for p in w.inbox.iterdir() if p.is_file()])
        until(lambda: not claims(w.inbox, "working"))
        study(w.inbox / "good")
        w.ended("done")
    kept = [p for where in ("done", "failed") for p in (w.inbox / where).rglob("damaged*")]
    assert sorted(p.read_bytes() for p in kept) == sorted(p.read_bytes() for p in (tmp_path / "made").glob("damaged*"))
    assert w.events("watch.problem") == []


def test_the_same_study_dropped_twice_is_answered_twice(tmp_path):
    with Watching(tmp_path) as w:
        made = study(tmp_path / "made")[0].parent
        shutil.copytree(made, tmp_path / "again")
        os.rename(made, w.inbox / "drop")
        w.ended("done")
        os.rename(tmp_path / "again", w.inbox / "drop")
        w.ended("done", 2)
    assert len(maps_in(w.out)) == 2


def test_links_pipes_and_what_they_point_to_are_never_opened(tmp_path):
    outside = study(tmp_path / "outside")
    w = Watching(tmp_path)
    (w.inbox / "link").symlink_to(tmp_path / "outside")
    (w.inbox / "drop").mkdir()
    for path in outside:
        (w.inbox / "drop" / path.name).symlink_to(path)
    os.mkfifo(w.inbox / "pipe")  # opening it would wait for ever
    (w.inbox / "deep" / "er").mkdir(parents=True)
    os.mkfifo(w.inbox / "deep" / "er" / "pipe")
    with w:
        ended = w.ended("failed", 4)
    reasons = " ".join((folder / "reason.txt").read_text() for folder, _ in ended)
    assert reasons.count("a symbolic link") >= 2
    assert reasons.count("a pipe") == 2
    assert w.core.asked == []
    assert len(list((tmp_path / "outside").iterdir())) == len(outside)


@pytest.mark.parametrize("name", ["new\nline", "spaces  and ; $(rm) 'q'", "Žluťoučký Ø 患者", "x" * 255, "-rf"])
def test_folders_of_odd_names_come_through(tmp_path, name):
    with Watching(tmp_path) as w:
        study(tmp_path / "plain")
        os.rename(tmp_path / "plain", w.inbox / name)
        ((folder, record),) = w.ended("done")
    assert record["drop"] == name
    assert len(contents(folder / "data" / name)) == 24
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", folder.name)


def test_what_is_hidden_is_not_there_yet(tmp_path):
    with Watching(tmp_path) as w:
        study(tmp_path / "plain")
        os.rename(tmp_path / "plain", w.inbox / "...")
        study(w.inbox / "seen")  # after it, and taken
        ((_, record),) = w.ended("done")
        until(lambda: not claims(w.inbox, "working"))
    assert record["drop"] == "seen"
    assert len(claims(w.inbox, "done")) == 1
    assert len(contents(w.inbox / "...")) == 24


def test_a_name_that_is_no_text_comes_through(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    with Watching(tmp_path) as w:
        study(tmp_path / "plain")
        os.rename(tmp_path / "plain", w.inbox / name)
        ((folder, record),) = w.ended("done")
    assert (folder / "data" / name).is_dir()
    assert record["drop"] == name


def test_a_failed_reconstruction_keeps_the_originals_and_its_reason(tmp_path):
    with Watching(tmp_path, FakeCore(fail="the mask is empty")) as w:
        study(w.inbox / "drop")
        before = contents(w.inbox / "drop")
        ((folder, record),) = w.ended("failed")
    assert contents(folder / "data" / "drop") == before
    assert record["scans"][0]["error"] == {
        "kind": "ReconstructionError",
        "message": "the mask is empty",
        "exit_code": 5,
    }
    assert "the mask is empty" in (folder / "reason.txt").read_text()
    assert list(w.out.iterdir()) == []
    assert w.watch.state()["failed"] == 1


def test_a_bug_in_a_reader_fails_the_study_alone(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("no reader should do this")

    with Watching(tmp_path) as w:
        monkeypatch.setattr(watch_job, "write", broken)
        study(w.inbox / "drop")
        ((folder, record),) = w.ended("failed")
        monkeypatch.undo()
        study(w.inbox / "next")
        w.ended("done")
    assert record["scans"][0]["error"]["kind"] == "bug"
    assert len(contents(folder / "data")) == 24


def test_a_busy_core_is_asked_again(tmp_path):
    with Watching(tmp_path, FakeCore(busy=2)) as w:
        study(w.inbox / "drop")
        w.ended("done")
    assert len(w.core.asked) == 1


def test_a_late_answer_is_marked(tmp_path):
    with Watching(tmp_path, FakeCore(late=True), form="both") as w:
        study(w.inbox / "drop")
        ((folder, record),) = w.ended("done")
    assert record["scans"][0]["late"] is True
    sidecar = json.loads(next((w.out / folder.name).glob("*_Chimap.json")).read_text())
    assert sidecar["DeadlinePassed"] is True
    assert sidecar["Recipe"] == "fast"
    assert "late" in sidecar["Warnings"]
    derived = sorted((w.out / folder.name).rglob("*.dcm"))
    assert len(derived) == 6
    assert "late" in pydicom.dcmread(derived[0]).ImageComments.lower()


def test_dicom_is_written_in_the_place_of_its_source(tmp_path):
    with Watching(tmp_path, form="dicom") as w:
        study(w.inbox / "drop")
        ((folder, _),) = w.ended("done")
    derived = [pydicom.dcmread(p) for p in sorted((w.out / folder.name).rglob("*.dcm"))]
    source = [pydicom.dcmread(p) for p in (folder / "data" / "drop").iterdir()]
    assert maps_in(w.out) == []
    assert {ds.StudyInstanceUID for ds in derived} == {ds.StudyInstanceUID for ds in source}
    places = {tuple(ds.ImagePositionPatient): ds for ds in derived}
    assert set(places) == {tuple(ds.ImagePositionPatient) for ds in source}
    magnitude = {}
    for ds in source:
        if ds.ImageType[2] == "M":
            magnitude.setdefault(tuple(ds.ImagePositionPatient), []).append(ds.pixel_array.astype(float))
    for place, ds in places.items():
        chi_ppm = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        if ds.get("RealWorldValueMappingSequence"):
            mapping = ds.RealWorldValueMappingSequence[0]
            chi_ppm = ds.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
        np.testing.assert_allclose(chi_ppm, np.mean(magnitude[place], 0) / 10000, atol=1e-3)


def test_nifti_input_cannot_become_dicom_and_says_so(tmp_path, bids):
    shutil.copytree(bids, tmp_path / "ds")
    with Watching(tmp_path, form="dicom") as w:
        os.rename(tmp_path / "ds", w.inbox / "ds")
        ((folder, _),) = w.ended("failed")
    assert "did not come as DICOM" in (folder / "reason.txt").read_text()
    assert w.core.asked == []


def test_stopping_finishes_what_is_at_work_and_leaves_the_rest(tmp_path):
    gate = threading.Event()
    with Watching(tmp_path, FakeCore(gate=gate)) as w:
        study(w.inbox / "one")
        until(lambda: w.core.asked)
        w.watch.accepting(False)
        study(w.inbox / "two")
        stopping = threading.Thread(target=w.watch.stop)
        stopping.start()
        time.sleep(0.3)
        assert stopping.is_alive()
        gate.set()
        stopping.join(PATIENCE_S)
    assert len(claims(w.inbox, "done")) == 1
    assert (w.inbox / "two").is_dir()
    assert claims(w.inbox, "working") == []


def test_what_is_in_working_at_the_start_is_taken_again(tmp_path):
    """As after kill -9: claimed, tried once, nothing written."""
    first = Watching(tmp_path)
    study(first.inbox / "drop")
    before = contents(first.inbox / "drop")
    claim = take(first)
    first.watch._claims.begin(claim)
    (first.out / f".{claim.name}.part").mkdir()
    (first.out / f".{claim.name}.part" / "half.nii.gz").write_bytes(b"half")
    first.watch._claims.close()
    with Watching(tmp_path) as w:
        ((folder, record),) = w.ended("done")
    assert folder.name == claim.name
    assert record["tries"] == 2
    assert contents(folder / "data" / "drop") == before
    assert sorted(p.name for p in w.out.iterdir()) == [claim.name]
    assert not list(w.out.rglob("half*"))


def test_loose_files_half_moved_are_brought_together(tmp_path):
    first = Watching(tmp_path)
    study(first.inbox)
    claim = take(first)
    for path in sorted((claim.folder / "data").iterdir())[::2]:  # as if it ended in the midst of moving
        os.rename(path, first.inbox / path.name)
    first.watch._claims.close()
    with Watching(tmp_path) as w:
        ((folder, _),) = w.ended("done")
    assert len(list((folder / "data").iterdir())) == 24
    assert [p for p in w.inbox.iterdir() if p.is_file()] == []


def test_a_claim_that_moved_nothing_is_forgotten_and_the_drop_taken_anew(tmp_path):
    first = Watching(tmp_path)
    study(first.inbox / "drop")
    claim = take(first)
    os.rename(claim.data, first.inbox / "drop")
    first.watch._claims.close()
    with Watching(tmp_path) as w:
        w.ended("done")
    assert len(claims(w.inbox, "done")) == 1
    assert claims(w.inbox, "working") == []


def test_maps_that_were_out_before_the_end_are_not_made_twice(tmp_path):
    with Watching(tmp_path) as first:
        study(first.inbox / "drop")
        ((folder, _),) = first.ended("done")
    os.rename(folder, first.inbox / "working" / folder.name)  # as if it ended between the two renames
    with Watching(tmp_path) as w:
        ((again, record),) = w.ended("done")
    assert again.name == folder.name
    assert record["state"] == "done"
    assert w.core.asked == []


def test_a_study_that_ends_the_process_again_and_again_is_set_aside(tmp_path):
    first = Watching(tmp_path)
    study(first.inbox / "drop")
    claim = take(first)
    for _ in range(MAX_TRIES):
        first.watch._claims.begin(claim)
    first.watch._claims.close()
    with Watching(tmp_path) as w:
        ((folder, _),) = w.ended("failed")
    assert f"ended {MAX_TRIES} times" in (folder / "reason.txt").read_text()
    assert w.core.asked == []


def test_a_drop_that_changes_as_it_is_taken_is_put_back(tmp_path, monkeypatch):
    taken = watch_claims.Claims.take
    changed = []

    def take_late(self, drop):
        if not changed:
            changed.append(drop)
            (drop.root / "more.dcm").write_bytes(b"came at the last moment")
        return taken(self, drop)

    monkeypatch.setattr(watch_claims.Claims, "take", take_late)
    with Watching(tmp_path) as w:
        study(w.inbox / "drop")
        ((folder, _),) = w.ended("done")
    assert (folder / "data" / "drop" / "more.dcm").exists()
    assert len(claims(w.inbox, "done")) == 1


def test_a_full_disk_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_job, "RETRY_S", 0.05)
    really, tries = watch_job.write, []

    def full(part, acquisition, answer, rules):
        tries.append(1)
        if len(tries) < 3:
            raise OutputError("the disk is full: free space") from OSError(28, "No space left on device")
        return really(part, acquisition, answer, rules)

    monkeypatch.setattr(watch_job, "write", full)
    with Watching(tmp_path, disk_s=PATIENCE_S) as w:
        study(w.inbox / "drop")
        w.ended("done")
    assert len(tries) == 3
    assert len(w.core.asked) == 1
    assert len(w.events("watch.disk")) == 2


def test_a_disk_that_stays_full_fails_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_job, "RETRY_S", 0.05)

    def full(part, acquisition, answer, rules):
        raise OutputError("the disk is full: free space") from OSError(28, "No space left on device")

    monkeypatch.setattr(watch_job, "write", full)
    with Watching(tmp_path) as w:
        study(w.inbox / "drop")
        ((folder, _),) = w.ended("failed")
    assert "the disk is full" in (folder / "reason.txt").read_text()
    assert len(contents(folder / "data" / "drop")) == 24


def test_no_output_folder_takes_nothing_and_is_not_ready(tmp_path):
    with Watching(tmp_path) as w:
        w.out.rmdir()
        study(w.inbox / "drop")
        until(lambda: w.watch.state().get("problem"))
        assert w.watch.state()["problem"].startswith("OutputError: OUT: cannot be written")
        assert w.watch.state()["ready"] is False
        time.sleep(0.5)
        assert (w.inbox / "drop").is_dir()
        w.out.mkdir()
        w.ended("done")
        until(lambda: w.watch.state()["ready"])
    assert len(w.events("watch.problem")) == 1


def test_a_drop_that_cannot_be_taken_is_told_once_and_taken_when_it_can_be(tmp_path, monkeypatch):
    really, tries = watch_claims.write_files, []

    def full(files, **options):
        tries.append(1)
        raise OutputError("the disk is full: free space")

    monkeypatch.setattr(watch_claims, "write_files", full)
    monkeypatch.setattr(watch, "AGAIN_S", 0.2)
    with Watching(tmp_path) as w:
        study(w.inbox / "drop")
        until(lambda: len(tries) > 2)
        assert w.watch.state()["held"] == 1
        assert len(contents(w.inbox / "drop")) == 24
        monkeypatch.setattr(watch_claims, "write_files", really)
        w.ended("done")
        assert w.watch.state()["held"] == 0
    assert len(w.events("watch.held")) == 1


@pytest.mark.usefixtures("permissions")
def test_a_folder_that_may_not_be_moved_stays_and_is_told(tmp_path):
    w = Watching(tmp_path)
    study(w.inbox / "drop")
    os.chmod(w.inbox / "drop", stat.S_IRUSR | stat.S_IXUSR)
    with w:
        until(lambda: w.events("watch.held"))
        assert len(contents(w.inbox / "drop")) == 24
        assert claims(w.inbox, "working") == []
    os.chmod(w.inbox / "drop", 0o700)


@pytest.mark.usefixtures("permissions")
def test_an_inbox_without_permission_is_refused_at_once(tmp_path):
    (tmp_path / "in").mkdir()
    os.chmod(tmp_path / "in", 0o500)
    with pytest.raises(OutputError, match="no permission"):
        Watching(tmp_path)
    os.chmod(tmp_path / "in", 0o700)


def test_places_that_make_no_sense_are_refused(tmp_path):
    core = FakeCore()
    (tmp_path / "in").mkdir()
    rules = watch_job.Rules()
    with pytest.raises(InputError, match="no such folder"):
        Watch(tmp_path / "nowhere", tmp_path / "out", core, None, rules)
    for out in ("in", "in/out", "in/../in/done"):
        with pytest.raises(UsageError, match="lies in the watched folder"):
            Watch(tmp_path / "in", tmp_path / out, core, None, rules)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        Watch(tmp_path / "in", tmp_path / "file" / "out", core, None, rules)


def test_a_folder_is_watched_once(tmp_path):
    with Watching(tmp_path), pytest.raises(OutputError, match="watched by another"):
        Watching(tmp_path)
    Watching(tmp_path).watch._claims.close()


def take(watching):
    """Claim the one drop there is, as the watch would, without working on it."""
    drops = watching.watch._drops
    until(lambda: (drops.look(), not drops.waiting)[1])
    (drop,) = drops.current.values()
    assert drops.assess(drop) == ()
    return watching.watch._claims.take(drop)


def test_what_an_earlier_process_left_is_worked_on_alone(tmp_path):
    """What ends a process must not be counted with a neighbour."""
    first = Watching(tmp_path)
    for number in (3, 5):
        study(first.inbox / str(number), number=number)
        first.watch._claims.begin(take(first))
    first.watch._claims.close()
    gate = threading.Event()
    with Watching(tmp_path, FakeCore(gate=gate)) as w:
        study(w.inbox / "new")
        until(lambda: w.core.asked and w.watch.state()["waiting"])
        time.sleep(0.5)
        assert len(w.core.asked) == 1
        assert w.watch.state()["unfinished"] == 1
        gate.set()
        ended = w.ended("done", 3)
    assert sorted(record["tries"] for _, record in ended) == [1, 2, 2]
    assert w.watch.state()["given_up"] == 0


def test_what_is_given_up_stands_in_the_log_and_its_neighbour_is_answered(tmp_path):
    first = Watching(tmp_path)
    study(first.inbox / "drop")
    claim = take(first)
    for _ in range(2):
        first.watch._claims.begin(claim)
    first.watch._claims.close()
    with Watching(tmp_path, tries=2) as w:
        study(w.inbox / "next")
        w.ended("failed")
        w.ended("done")
    (line,) = w.events("watch.given_up")
    assert (line["level"], line["tries"]) == ("error", 2)
    assert w.watch.state()["given_up"] == 1


def test_what_ended_long_ago_is_removed_and_its_maps_stay(tmp_path):
    with Watching(tmp_path, give_up_s=1.0) as w:
        study(w.inbox / "SMITH JOHN")
        (w.inbox / "broken.dcm").write_bytes(b"no image")
        ((old, _),) = w.ended("done")
        ((failed, _),) = w.ended("failed")
        other = w.inbox / "done" / "of somebody else"
        other.mkdir()
    long_ago = time.time() - 15 * DAY_S
    for folder in (old, failed, other):
        os.utime(folder, (long_ago, long_ago))
    with Watching(tmp_path) as w:
        until(lambda: len(w.events("kept.removed")) == 2)
        assert claims(w.inbox, "done") == [other]
        assert claims(w.inbox, "failed") == []
        study(w.inbox / "next")
        until(lambda: w.events("watch.done"))
    assert {line["state"] for line in w.events("kept.removed")} == {"done", "failed"}
    assert "SMITH" not in w.said
    assert len(maps_in(w.out)) == 2


def test_the_sidecar_says_what_that_of_run_says(tmp_path):
    assert main(["phantom", "-o", str(tmp_path / "ds"), "--matrix", "32,36,32", "--voxel-mm", "6,6,6",
                 "--echo-times-ms", "4,9", "-q"]) == 0  # fmt: skip
    assert main(["run", str(tmp_path / "ds"), "-o", str(tmp_path / "run"), "--recipe", "fast", "-q"]) == 0
    acquisition = next(iter(find_acquisitions(tmp_path / "ds"))).read()
    answer = Answer(reconstruct(acquisition.scan, load_recipe("fast")), "fast", False, {})
    watch_job.write(tmp_path / "watch", acquisition, answer, watch_job.Rules(versions=software_versions()))
    run, served = (
        json.loads((tmp_path / place / "sub-sim" / "anat" / "sub-sim_Chimap.json").read_text())
        for place in ("run", "watch")
    )
    assert served.pop("DeadlinePassed") is False
    assert served.keys() == run.keys()
    took = {"SecondsPerStage", "Threads"}
    assert {key for key in run if run[key] != served[key]} <= took


DIES = """
import os, sys
from pathlib import Path
from qsm_runtime.serve import watch_headers
from qsm_runtime.serve.attempts import Attempts, Reading
from qsm_runtime.serve.watch_files import listing
really = watch_headers.read_file
watch_headers.read_file = lambda path: os._exit(9) if path.name == "0013.dcm" else really(path)
folder, state = map(Path, sys.argv[1:])
headers = watch_headers.Headers(2, Reading(state / "reading"), Attempts(state / "attempts.json"))
files = {folder / name: mark for name, mark in listing(folder).files.items()}
headers.read(files)
read = [headers.of(path, mark) for path, mark in files.items()]
print(sum(isinstance(one, list) for one in read), *[one for one in read if isinstance(one, str)])
headers.close()
"""


def test_a_file_whose_header_ends_the_process_is_found_and_left_alone(tmp_path):
    """Once it does among many; then they are read one by one, and the fourth time nobody reads it."""
    study(tmp_path / "drop")
    command = [sys.executable, "-c", DIES, str(tmp_path / "drop"), str(tmp_path)]
    ran = [subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S) for _ in range(5)]
    assert [one.returncode for one in ran] == [9, 9, 9, 9, 0], ran[-1].stderr
    assert ran[-1].stdout.strip() == "23 the server ended 3 times when it read this file"
