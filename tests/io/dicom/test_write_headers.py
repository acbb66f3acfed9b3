"""Whatever the source's header holds, the derived object is valid and names the same patient."""

import re

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_dicom import dciodvfy
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from qsm_runtime.io.dicom import assemble, find_dicom
from qsm_runtime.io.dicom.carried import (
    ACQUISITION,
    EQUIPMENT,
    PATIENT_AND_STUDY,
    SERIES,
    announce_character_set,
    carried,
    scanner,
)
from qsm_runtime.io.dicom.text_rules import decimal
from qsm_runtime.io.dicom.write import derived_series, write_series


def written(datasets, folder):
    """The first object of the chi series of a scan, read back, and its path."""
    acq = assemble(datasets)[0].read(threads=1)
    series = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, {"recipe": {"name": "fast"}})
    path = write_series(folder, series)["chi"] / "0001.dcm"
    return pydicom.dcmread(path), path


def errors(path):
    return [line for line in dciodvfy(path) if line.startswith("Error")]


def check_values(dataset):
    for element in dataset.iterall():
        if element.VR in ("SQ", "OW", "UN") or element.value is None:
            continue
        several = element.VM > 1
        for value in element.value if several else [element.value]:
            written_as = getattr(value, "original_string", None) or (str(value) if element.VR != "US" else value)
            if element.VR in ("US", "SS", "UL", "FD", "AT"):
                continue
            if element.VR == "UI":  # with leading zeros too, which some scanners write
                written_as = re.sub(r"(^|\.)0+(?=\d)", r"\1", written_as)
            validate_value(element.VR, written_as, RAISE)


def small(kit, **options):
    datasets = kit.classic(kit.Protocol(shape=(6, 5, 3), echo_times_ms=(4.0, 9.0), **options))
    return datasets


def test_nothing_but_what_the_reader_needs(kit, tmp_path):
    datasets = small(kit)
    for ds in datasets:
        for keyword in ("PatientName", "PatientID", "FrameOfReferenceUID", "SeriesNumber", "ProtocolName",
                        "ScanningSequence", "SeriesDescription", "SliceThickness", "MRAcquisitionType",
                        "MagneticFieldStrength", "StudyInstanceUID"):  # fmt: skip
            delattr(ds, keyword)
    ds, path = written(datasets, tmp_path / "out")
    assert errors(path) == []
    check_values(ds)
    assert ds.PatientName == ds.PatientID == ""
    assert ds.FrameOfReferenceUID.startswith("2.25.")
    assert ds.StudyInstanceUID.startswith("2.25.")
    assert ds.SeriesNumber == 9001
    assert ds.MagneticFieldStrength == pytest.approx(123.25 / 42.577478518, abs=1e-3)


def test_values_that_break_the_rules_of_their_vr(kit, tmp_path):
    datasets = small(kit)
    for ds in datasets:
        ds.PatientName = "Of-The-Very-Long-Names^" + "Maria " * 30
        ds.PatientID = "X" * 100
        ds.StudyID = "study number seventeen of the year"
        ds.StudyDescription = "head\\neck " * 20
        ds.StudyDate, ds.StudyTime = "2024-01-02", "10:11:12"
        ds.PatientBirthDate, ds.PatientAge, ds.PatientSex = "unknown", "forty", "male"
        ds.PatientPosition, ds.BodyPartExamined = "hfs", "left knee with a very long name"
        ds.RepetitionTime = "40.123456789012345678"
        ds.AccessionNumber = "A" * 40
        ds.ImagePositionPatient = [f"{float(v) + 1 / 3:.17f}" for v in ds.ImagePositionPatient]
    ds, path = written(datasets, tmp_path / "out")
    assert errors(path) == []
    check_values(ds)
    assert str(ds.PatientName).startswith("Of-The-Very-Long-Names^Maria")
    assert ds.PatientID == "X" * 64
    assert (ds.StudyDate, ds.StudyTime) == ("20240102", "101112")
    assert ds.PatientBirthDate == "" or ds.PatientBirthDate is None
    assert not ds.PatientSex
    assert ds.PatientPosition == "HFS"
    assert "BodyPartExamined" not in ds
    assert ds.ImagePositionPatient[0] == pytest.approx(-11 + 1 / 3, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Unknown encoding")  # of the test's own files
@pytest.mark.parametrize(
    ("announced", "encoding", "name", "kept"),
    [
        ("ISO_IR 100", "latin-1", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 192", "utf-8", "Łukasz^Żółć", "ISO_IR 192"),
        ("ISO_IR 144", "iso8859-5", "Люкceмбypг", "ISO_IR 144"),
        ("ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ISO_IR 13"),
        ("", "latin-1", "Müller^Jörg", "ISO_IR 100"),  # not announced: read as Western, and announced
        ("ISO_IR 999", "latin-1", "Müller^Jörg", "ISO_IR 100"),
        ("GB18030", "gb18030", "王^小东", "GB18030"),
        ("ISO_IR 100", "ascii", "Doe^Jane", None),
    ],
)
def test_character_sets(kit, tmp_path, announced, encoding, name, kept):
    datasets = small(kit)
    folder = tmp_path / "in"
    folder.mkdir()
    for i, ds in enumerate(datasets):
        if announced:
            ds.SpecificCharacterSet = announced
        value = name.encode(encoding)
        value += b" " * (len(value) % 2)
        tag = Tag(0x00100010)
        del ds.PatientName
        ds._dict[tag] = RawDataElement(tag, "PN", len(value), value, 0, False, True)
        ds.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    (found,) = find_dicom(folder)
    acq = found.read(threads=1)
    series = derived_series(acq, {"chi": np.zeros(acq.scan.grid.shape, np.float32)}, {}, warnings=["χ is not ASCII"])
    path = write_series(tmp_path / "out", series)["chi"] / "0001.dcm"
    ds = pydicom.dcmread(path)
    assert ds.get("SpecificCharacterSet") == kept
    assert str(ds.PatientName) == name
    assert value.strip() in path.read_bytes()
    if announced != "ISO_IR 13":  # which the checker does not know
        assert errors(path) == []


def test_private_and_stale_elements_stay_behind(kit, tmp_path):
    datasets = small(kit, vendor="philips")
    for ds in datasets:
        ds.WindowCenter, ds.WindowWidth = "500", "1000"
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 1, 2
        ds.PixelPaddingValue = 7
        ds.EchoNumbers = 3
        ds.ReferencedImageSequence = Sequence([Dataset()])
        ds.RealWorldValueMappingSequence = Sequence([Dataset()])
        item = Dataset()
        item.RequestedProcedureID, item.ScheduledProcedureStepID = "R1", "S1"
        item.private_block(0x0011, "SOMEONE", create=True).add_new(1, "LO", "secret")
        ds.RequestAttributesSequence = Sequence([item])
    ds, path = written(datasets, tmp_path / "out")
    assert errors(path) == []
    assert (ds.WindowCenter, ds.WindowWidth) == (0, 0.4)
    for keyword in ("SmallestImagePixelValue", "PixelPaddingValue", "EchoNumbers", "ReferencedImageSequence"):
        assert keyword not in ds
    assert not any(element.tag.is_private for element in ds.iterall())
    assert ds.RequestAttributesSequence[0].RequestedProcedureID == "R1"


def test_time_zone_of_the_source(kit, tmp_path):
    datasets = small(kit)
    for ds in datasets:
        ds.TimezoneOffsetFromUTC = "-0930"
    ds, path = written(datasets, tmp_path / "out")
    assert ds.TimezoneOffsetFromUTC == "-0930"
    assert errors(path) == []
    made = pydicom.valuerep.DT(ds.ContributingEquipmentSequence[1].ContributionDateTime)
    stated = pydicom.valuerep.DT(f"{ds.ContentDate}{ds.ContentTime}-0930")
    assert abs((stated - made).total_seconds()) < 2


def test_decimals_are_as_exact_as_sixteen_characters_allow():
    for value in (0.1, 1 / 3, -1 / 3, 1e-7 / 3, -123456.123456789, 0.0, 5.0, -1.2345678901234567e-11):
        text = decimal(value)
        assert len(text) <= 16
        assert float(text) == pytest.approx(value, rel=1e-9, abs=1e-17)


KEYWORDS = sorted({*PATIENT_AND_STUDY, *SERIES, *ACQUISITION, *EQUIPMENT})
SOME_TEXT = st.one_of(
    st.binary(max_size=90),
    st.text(max_size=40).map(str.encode),
    st.text(st.characters(codec="latin-1"), max_size=80).map(lambda text: text.encode("latin-1")),
    st.sampled_from([b"NaN", b"1e400", b"-0", b"20240101", b"2024.01.01", b"12:00", b"YES", b"1.2.3", b"A^B=C\\D"]),
)
CHARACTER_SETS = ["", "ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "\\ISO 2022 IR 87", "GB18030", "nonsense"]


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(KEYWORDS), SOME_TEXT, max_size=10), st.sampled_from(CHARACTER_SETS))
def test_any_bytes(values, announced):
    """Every value that is carried over is one its VR allows, and can be written and read back as it is."""
    header = Dataset()
    if announced:
        tag = Tag(0x00080005)
        header._dict[tag] = RawDataElement(tag, "CS", len(announced), announced.encode(), 0, False, True)
    for keyword, value in values.items():
        tag = Tag(tag_for_keyword(keyword))
        header._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    taken = carried(header)
    taken.ContributingEquipmentSequence = Sequence([scanner(header)])
    announce_character_set(taken, header)
    check_values(taken)
    stream = DicomBytesIO()
    pydicom.dcmwrite(stream, taken, implicit_vr=False, little_endian=True)
    stream.seek(0)
    again = pydicom.dcmread(stream, force=True)
    for element, wanted in zip(again, taken, strict=True):
        if element.VR != "SQ" and wanted.value is not None:
            assert str(element.value).rstrip() == str(wanted.value).rstrip(), element.tag
