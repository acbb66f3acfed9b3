"""Headers of nonsense: every outcome is a scan, a fault by name or one of the package's own errors."""

import contextlib
import copy
import io
import os
import struct

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsm_runtime.errors import QsmError
from qsm_runtime.io.dicom import assemble, find_dicom, inspect_folder

TAGS = [
    0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080070, 0x0008103E, 0x00180023, 0x00180050, 0x00180081,
    0x00180084, 0x00180086, 0x00180087, 0x00180088, 0x00180091, 0x0020000D, 0x0020000E, 0x00200011, 0x00200012,
    0x00200013, 0x00200032, 0x00200037, 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100,
    0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053, 0x52009229, 0x52009230, 0x7FE00010,
]  # fmt: skip
RAW = st.one_of(
    st.sampled_from(
        [b"", b"0 ", b"-1", b"1e400 ", b"nan ", b"inf ", b"\\\\", b"1\\2 ", b"x" * 80, b"\0\0", b"\xff\xff"]
    ),
    st.binary(max_size=24).map(lambda b: b + b"\0" * (len(b) % 2)),
    st.floats().map(lambda v: struct.pack("<d", v)),
)
EXAMPLES = int(os.environ.get("QSM_FUZZ_EXAMPLES", "25"))  # more by hand
FUZZ = settings(max_examples=EXAMPLES, print_blob=True)


def outcome(found):
    """Read what claims to be complete."""
    for one in found:
        with contextlib.suppress(QsmError):
            acq = one.read(threads=1)
            assert acq.scan.magnitude.shape[1:] == acq.scan.grid.shape


def nested(dataset):
    """Every item of every sequence."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from nested(item)


@pytest.fixture(scope="module")
def small(kit):
    """Bytes of a classic and of an enhanced scan."""
    made = {}
    for style, vendor in (("classic", "siemens"), ("enhanced", "philips")):
        protocol = kit.Protocol(vendor=vendor, shape=(5, 4, 3), echo_times_ms=(4.0, 9.0))
        made[style] = []
        for ds in getattr(kit, style)(protocol):
            stream = io.BytesIO()
            ds.save_as(stream, enforce_file_format=True)
            made[style].append(stream.getvalue())
    return made


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("style", ["classic", "enhanced"])
def test_elements_of_nonsense_in_memory(small, style, data):
    datasets = [pydicom.dcmread(io.BytesIO(b)) for b in small[style]]
    groups = [item for ds in datasets for item in nested(ds)]
    for _ in range(data.draw(st.integers(1, 3))):
        tag, raw = pydicom.tag.Tag(data.draw(st.sampled_from(TAGS))), data.draw(RAW)
        vr = pydicom.datadict.dictionary_VR(tag).split(" ")[0]
        places = groups if groups and data.draw(st.booleans()) else datasets
        victims = places if data.draw(st.booleans()) else [places[data.draw(st.integers(0, len(places) - 1))]]
        for place in victims:
            place[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    outcome(assemble(datasets))


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("style", ["classic", "enhanced"])
def test_damaged_files(small, style, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    files = copy.copy(small[style])
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(files) - 1))
        damaged = bytearray(files[i])
        start = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = data.draw(st.sampled_from(["overwrite", "cut", "drop"]))
        if kind == "overwrite":
            patch = data.draw(st.binary(min_size=1, max_size=16))
            damaged[start : start + len(patch)] = patch
        elif kind == "cut":
            del damaged[start:]
        else:
            del damaged[start : start + data.draw(st.integers(1, 32))]
        files[i] = bytes(damaged)
    for i, content in enumerate(files):
        (folder / f"{i}").write_bytes(content)
    inspect_folder(folder)
    with contextlib.suppress(QsmError):
        outcome(find_dicom(folder))


@FUZZ
@given(noise=st.binary(max_size=400))
def test_noise_after_a_preamble(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("noise")
    (folder / "a").write_bytes(bytes(128) + b"DICM" + noise)
    (folder / "b").write_bytes(b"\x08\0" + noise)
    (folder / "c.gz").write_bytes(b"\x1f\x8b" + noise)
    assert inspect_folder(folder).scans == []
