"""The node against real peers over loopback: dcmtk's storescu, echoscu and storescp, and Orthanc as the archive."""

import json
import subprocess
import threading
import urllib.request

import numpy as np
import pydicom
import pytest
from dicom_kit import FakeCore, Running, Storescp, Timing, chi_of, made, protocol, scan_files, storescu, tool
from patience import PATIENCE_S, until
from pydicom.uid import generate_uid
from serve_kit import free_port

from qsm_runtime.cli import send_dicom
from qsm_runtime.errors import InputError, UsageError
from qsm_runtime.io.dicom import find_dicom
from qsm_runtime.serve.dicom_head import file_head
from qsm_runtime.serve.dicom_node import DicomNode
from qsm_runtime.serve.dicom_send import Destination, SendError, echo, object_of, send
from qsm_runtime.serve.dicom_settings import NodeSettings


def test_storescu_in_storescp_out(tmp_path):
    """A study from dcmtk's sender comes back, as the right series, to dcmtk's receiver."""
    paths = scan_files(tmp_path / "scan")
    with Storescp(tmp_path / "archive") as archive, Running(tmp_path / "spool", to=(archive.destination,)) as run:
        sent = storescu(run.node.port, paths)
        assert sent.returncode == 0, sent.stderr
        (job,) = run.done()
        got = chi_of(archive.folder, "*")
        assert run.node.state()["sent"] == len(got.headers) == 6
    source = pydicom.dcmread(paths[0])
    assert {ds.StudyInstanceUID for ds in got.headers} == {source.StudyInstanceUID}
    assert {str(ds.PatientName) for ds in got.headers} == {"Doe^Jane"}
    assert {ds.SeriesInstanceUID for ds in got.headers}.isdisjoint({source.SeriesInstanceUID})
    positions = [tuple(ds.ImagePositionPatient) for ds in got.headers]
    assert positions == [tuple(pydicom.dcmread(p).ImagePositionPatient) for p in paths[:6]]
    (found,) = find_dicom(tmp_path / "scan")
    acquisition = found.read()
    wanted = acquisition.dicom.planes(acquisition.scan.magnitude.mean(0) / 10000)
    np.testing.assert_allclose(got.values, wanted, atol=1e-4)
    # the originals are kept with the answer
    assert len(list(job.glob("*.dcm"))) == len(paths) == 36
    record = json.loads((job / "job.json").read_text())
    assert record["objects"] == 36
    assert record["derived"] == 6
    assert run.node.spool.state()["waiting"] == 0


def test_no_name_is_logged_or_named(tmp_path):
    paths = scan_files(tmp_path / "scan")
    with Running(tmp_path / "spool") as run:
        run.send(paths)
        run.done()
    text = run.log.text.getvalue()
    source = pydicom.dcmread(paths[0])
    for secret in ("Doe", "SECRET", source.StudyInstanceUID, source.SOPInstanceUID):
        assert secret not in text
        assert not [path for path in (tmp_path / "spool").rglob("*") if secret in path.name]


def test_echo(tmp_path):
    with Running(tmp_path / "spool") as run:
        echo(run.address, "SCANNER")
        asked = subprocess.run(
            [tool("echoscu"), "-aec", "QSM", "127.0.0.1", str(run.node.port)], capture_output=True, timeout=PATIENCE_S
        )
        assert asked.returncode == 0
        port = run.node.port
    with pytest.raises(SendError):
        echo(Destination("QSM", "127.0.0.1", port), "SCANNER")


def test_several_senders_two_studies_interleaved(tmp_path):
    """Four associations at once bring two studies, object by object in turns."""
    studies = [scan_files(tmp_path / name, number=7 + i) for i, name in enumerate("ab")]
    mixed = [path for pair in zip(*studies, strict=True) for path in pair]
    with Running(tmp_path / "spool") as run:
        results = []
        threads = [
            threading.Thread(target=lambda part: results.append(storescu(run.node.port, part)), args=(mixed[k::4],))
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.returncode for one in results] == [0, 0, 0, 0]
        jobs = run.done(2)
        assert run.node.state()["failed"] == 0
    for job in jobs:
        originals = {pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID for p in job.glob("*.dcm")}
        derived = {
            pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID for p in (job / "derived").glob("*.dcm")
        }
        assert len(originals) == 1
        assert originals == derived
    assert len({study for study, _, _ in run.core.asked}) == 2


def test_echoes_begin_before_the_last_has_come(tmp_path):
    """Magnitude, then phase, echo by echo: each whole echo is given to the core as it will be read at the end."""
    paths = scan_files(tmp_path / "scan")
    with Running(tmp_path / "spool") as run:
        run.send(paths[:-1])
        head = until(lambda: run.core.heads and len(run.core.heads[0].fed) == 2 and run.core.heads[0])
        assert not run.core.asked
        run.send(paths[-1:])
        until(lambda: len(head.fed) == 3)  # the last one too, though the study may go on
        run.done()
        ((_, acquisition, early),) = run.core.asked
    assert early is head
    scan = acquisition.scan
    for index, magnitude, phase_rad, how in head.fed:
        np.testing.assert_array_equal(magnitude, scan.magnitude[index])
        np.testing.assert_array_equal(phase_rad, scan.phase_rad[index])
        assert how["grid"].shape == scan.grid.shape
        assert how["echo_times_s"] == scan.echo_times_s
        assert how["b0_tesla"] == scan.b0_tesla


@pytest.mark.parametrize("make", ["slices first", "enhanced", "philips", "each alone"])
def test_other_ways_to_arrive(tmp_path, make):
    """Slice by slice, one multi-frame object, one series for both parts, an association for every object."""
    kind = {"vendor": "philips"} if make == "philips" else {}
    if make == "enhanced":
        (tmp_path / "scan").mkdir()
        (dataset,) = made.enhanced(protocol(vendor="siemens-xa"))
        dataset.save_as(tmp_path / "scan" / "0.dcm", enforce_file_format=True)
        paths = [tmp_path / "scan" / "0.dcm"]
    else:
        paths = scan_files(tmp_path / "scan", **kind)
    if make == "slices first":
        paths = [path for k in range(6) for path in paths[k::6]]
    with Running(tmp_path / "spool") as run:
        for group in [[path] for path in paths] if make == "each alone" else [paths]:
            assert set(run.send(group).values()) == {0}
        (job,) = run.done()
        assert len(list(job.glob("*.dcm"))) == len(paths)
        assert len(list((job / "derived").glob("*.dcm"))) == 6


def test_a_scan_in_a_study_that_goes_on(tmp_path):
    """Other series of the same study keep coming: the scan is answered all the same, and they are no failure."""
    scan = scan_files(tmp_path / "scan")
    study = pydicom.dcmread(scan[0]).StudyInstanceUID
    other, *_ = made.classic(protocol(number=20, study=study), parts=("magnitude",))

    def more():
        """One more object, until the scan is answered."""
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
        run.send([tmp_path / "other.dcm"])
        return run.jobs("done")

    with Running(tmp_path / "spool", timing=Timing(0.3, PATIENCE_S)) as run:
        run.send(scan)
        until(more, run.log.text.getvalue)
        run.pace(Timing(0.3, 1.0))
        until(lambda: not run.node.state()["studies"])
        assert run.node.state()["failed"] == 0
        assert run.node.spool.state()["waiting"] == 0


def test_compressed_lossless_is_taken_lossy_refused(tmp_path):
    """What is negotiated: RLE can be decoded here, JPEG baseline is lossy."""
    paths = scan_files(tmp_path / "scan")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress("1.2.840.10008.1.2.5")
        dataset.save_as(path)
    lossy = tmp_path / "lossy.dcm"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    dataset.save_as(lossy)
    with Running(tmp_path / "spool") as run:
        with pytest.raises(SendError):
            run.send([lossy])
        assert set(run.send(paths).values()) == {0}
        (job,) = run.done()
    (acquisition,) = [asked[1] for asked in run.core.asked]
    made.check(acquisition, protocol())
    assert len(list(job.glob("*.dcm"))) == 36


def test_other_kinds_are_refused_when_negotiated(tmp_path):
    (path,) = scan_files(tmp_path / "scan", shape=(12, 10, 1), echo_times_ms=(4.0,))[:1]
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT
    dataset.save_as(tmp_path / "ct.dcm")
    with Running(tmp_path / "spool") as run:
        said = run.send([tmp_path / "ct.dcm", path])
        assert said == {"ct.dcm": 0x0122, path.name: 0}
        assert storescu(run.node.port, [tmp_path / "ct.dcm"]).returncode != 0


ORTHANC = {
    "DicomAet": "ORTHANC", "DicomCheckCalledAet": True, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
    "HttpServerEnabled": True, "Plugins": [], "ConcurrentJobs": 1, "DicomAlwaysAllowStore": True,
}  # fmt: skip


def test_orthanc_as_the_archive(tmp_path):
    """A study stored in Orthanc beside its map: one study, the map one more series of it."""
    program = tool("Orthanc")
    http, dicom = free_port(), free_port()
    configuration = ORTHANC | {
        "StorageDirectory": str(tmp_path / "storage"), "IndexDirectory": str(tmp_path / "storage"), "HttpPort": http,
        "DicomPort": dicom,
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    paths = scan_files(tmp_path / "scan")

    def asked(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/{path}", timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())

    def up():
        try:
            return asked("system")
        except OSError:
            return None

    archive = Destination("ORTHANC", "127.0.0.1", dicom)
    process = subprocess.Popen(
        [program, str(tmp_path / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(up, lambda: "for Orthanc")
        with Running(tmp_path / "spool", to=(archive,)) as run:
            refused = []
            send([object_of(p) for p in paths], archive, "SCANNER", lambda p, s: refused.append(s))
            assert set(refused) == {0}
            run.send(paths)
            run.done()
        (study,) = asked("studies")
        series = {one["MainDicomTags"]["SeriesNumber"]: one for one in asked(f"studies/{study}/series")}
        assert sorted(len(one["Instances"]) for one in series.values()) == [6, 18, 18]
        (derived,) = [one for number, one in series.items() if int(number) not in (7, 8)]
        tags = asked(f"instances/{derived['Instances'][0]}/simplified-tags")
        assert tags["PatientID"] == "SECRET-1"
        assert "QSM" in tags["SeriesDescription"]
    finally:
        process.kill()
        process.wait()


def test_send_a_folder(tmp_path, capsys):
    """`qsm send dicom`: every DICOM file of a folder, and nothing else of it."""
    scan_files(tmp_path / "scan" / "sub")
    (tmp_path / "scan" / "notes.txt").write_text("x" * 500)
    (tmp_path / "scan" / "empty.dcm").touch()
    with Storescp(tmp_path / "archive") as archive:
        assert send_dicom.dicom(tmp_path / "scan", to=str(archive.destination), as_json=True) == 0
        assert len(archive.received()) == 36
    assert json.loads(capsys.readouterr().out)["sent"] == 36
    with pytest.raises(UsageError, match="--to"):
        send_dicom.dicom(tmp_path / "scan")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no DICOM files"):
        send_dicom.dicom(tmp_path / "none", to="A@127.0.0.1:1")


def test_file_head_is_what_pydicom_reads(tmp_path):
    (tmp_path / "x.dcm").write_bytes(file_head("1.2.840.10008.5.1.4.1.1.4", "1.2.3", "1.2.840.10008.1.2.1"))
    meta = pydicom.dcmread(tmp_path / "x.dcm").file_meta
    assert meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.FileMetaInformationGroupLength + 144 == (tmp_path / "x.dcm").stat().st_size


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0"}, "--calling"),
        ({"ae": "A" * 17}, "title"),
        ({"max_unit": 10}, "--max-pdu"),
    ],
)
def test_settings_that_have_no_meaning(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        DicomNode(NodeSettings(tmp_path, 0, **changes), FakeCore(), None)


def test_taken_port(tmp_path):
    with Running(tmp_path / "a") as run, pytest.raises(UsageError, match="cannot be listened on"):
        DicomNode(NodeSettings(tmp_path / "b", run.node.port), FakeCore(), run.log)


@pytest.mark.parametrize("words", ["A@h:0", "A@h", "@h:1", "A@:1", "A" * 17 + "@h:1", "A@h:99999", "A@h:1:2"])
def test_destinations_that_are_none(words):
    with pytest.raises(UsageError, match="AE@host:port"):
        Destination.parse(words)


def test_destinations():
    for words in ("ARCHIVE@10.0.0.5:104", "PACS 1@pacs.local:11112", "X@[::1]:104"):
        assert str(Destination.parse(words)) == words
