"""Framing: against the ismrmrd package, byte for byte, and against whatever a stranger may send."""

import ctypes
import io
import struct
import tracemalloc

import ismrmrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer
from made_mrd import Fire, messages

from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd import writer
from qsm_runtime.io.mrd.streams import PipeStream


def serialized(*objects, close=True):
    out = io.BytesIO()
    serializer = ProtocolSerializer(out)
    for one in objects:
        serializer.serialize(one)
    if close:
        serializer.close()
    return out.getvalue()


def written(write, *arguments):
    out = io.BytesIO()
    write(PipeStream(None, out), *arguments)
    return out.getvalue()


def test_headers_are_laid_out_as_theirs():
    theirs = ismrmrd.ImageHeader
    assert ctypes.sizeof(theirs) == mrd.IMAGE_HEADER.itemsize == 198
    for name, _ in theirs._fields_:
        assert getattr(theirs, name).offset == mrd.IMAGE_HEADER.fields[name][1], name
        assert getattr(theirs, name).size == mrd.IMAGE_HEADER.fields[name][0].itemsize, name
    assert ctypes.sizeof(ismrmrd.AcquisitionHeader) == mrd.ACQUISITION_BYTES
    assert ctypes.sizeof(ismrmrd.WaveformHeader) == mrd.WAVEFORM_BYTES


def test_all_messages_of_theirs_are_read():
    acquisition = ismrmrd.Acquisition.from_array(np.ones((3, 50), np.complex64), np.ones((50, 2), np.float32))
    waveform = ismrmrd.Waveform.from_array(np.ones((2, 7), np.uint32))
    header = Fire().header()
    came = messages(
        serialized(ConfigFile("qsm"), ConfigText("<c/>"), header, "hello", acquisition, waveform, *Fire().images())
    )
    kinds = [type(m).__name__ for m in came]
    assert kinds[:6] == ["Config", "Config", "Header", "Text", "Raw", "Raw"]
    assert kinds[6:] == ["Image"] * 36 + ["Close"]
    assert [came[0].text, came[1].text, came[3].text] == ["qsm", "<c/>", "hello"]
    assert "<TE>4.0</TE>" in came[2].text
    assert [m.kind for m in came[4:6]] == ["readouts", "waveforms"]


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (2, 3, 4, 5)])
def test_pixels_of_every_type(dtype, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    image = ismrmrd.Image.from_array(values)
    image.meta = {"Name": ["a", "ü"]}
    (came, _) = messages(serialized(image))
    assert came.pixels.dtype == values.dtype
    np.testing.assert_array_equal(came.pixels, values)
    assert bytes(came.header) == bytes(image.getHead())[:-4] + struct.pack("<I", len(came.meta))
    again = next(ProtocolDeserializer(io.BytesIO(written(writer.write_image, came))).deserialize())
    assert again.meta == {"Name": ["a", "ü"]}
    np.testing.assert_array_equal(again.data, values)


def test_whole_numbers_of_32_bits_have_4_bytes():
    """As the standard and scanners have it; the Python package writes 8."""
    header = np.zeros((), mrd.IMAGE_HEADER)
    header["data_type"], header["channels"], header["matrix_size"] = 4, 1, (2, 3, 1)
    data = written(writer.write_image, mrd.Image(header[()], b"", np.arange(6, dtype="<i4").reshape(1, 1, 3, 2)))
    assert len(data) == 2 + 198 + 8 + 24
    assert messages(data + struct.pack("<H", 4))[0].pixels.tolist() == [[[[0, 1], [2, 3], [4, 5]]]]


@pytest.mark.parametrize("text", [b"hello", b"hello\0", b"hello\0\0\0"])
def test_texts_with_and_without_nul(text):
    for number in (2, 3, 5):
        data = struct.pack("<HI", number, len(text)) + text + struct.pack("<H", 4)
        assert messages(data)[0].text == "hello"


def test_our_texts_end_with_nul_and_config_files_have_1024_bytes():
    assert written(writer.write_text, "ERR no") == struct.pack("<HI", 5, 7) + b"ERR no\0"
    config = written(writer.write_config, "x" * 5000)
    assert len(config) == 2 + 1024
    assert messages(config + struct.pack("<H", 4))[0].text == "x" * 1023


HUGE = 2**31
HOSTILE = {
    "text": struct.pack("<HI", 5, 2**32 - 1),
    "config text": struct.pack("<HI", 2, HUGE),
    "header": struct.pack("<HI", 3, HUGE),
    "unknown id": struct.pack("<H", 7777),
    "pixels": struct.pack("<HHHQI3H3fH", 1022, 1, 8, 0, 0, 65535, 65535, 65535, 1, 1, 1, 65535) + bytes(400),
    "no pixels": struct.pack("<HHHQI3H3fH", 1022, 1, 1, 0, 0, 0, 4, 1, 1, 1, 1, 1) + bytes(400),
    "data type": struct.pack("<HHHQI3H3fH", 1022, 1, 9, 0, 0, 4, 4, 1, 1, 1, 1, 1) + bytes(400),
    "meta": struct.pack("<HHHQI3H3fH", 1022, 1, 1, 0, 0, 4, 4, 1, 1, 1, 1, 1) + bytes(162) + b"\xff" * 8 + bytes(99),
    "readout": struct.pack("<H", 1008) + b"\xff" * 340 + bytes(99),
    "waveform": struct.pack("<H", 1026) + b"\xff" * 40 + bytes(99),
}


SAID = {"unknown id": "is unknown", "no pixels": "holds nothing", "data type": "none of 1 to 8"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lengths_are_refused_before_anything_is_allocated(name):
    tracemalloc.start()
    try:
        with pytest.raises(mrd.ProtocolError, match=SAID.get(name, "allowed")):
            messages(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_study_has_a_limit():
    data = Fire().stream()
    with pytest.raises(mrd.ProtocolError, match="images of one study"):
        list(mrd.Reader(PipeStream(io.BytesIO(data), None), mrd.Limits(study=5000)))
    with pytest.raises(mrd.ProtocolError, match="more than 35 images"):
        list(mrd.Reader(PipeStream(io.BytesIO(data), None), mrd.Limits(images=35)))


def test_a_stream_that_ends_anywhere_before_close_says_so():
    data = Fire().stream(images=Fire().images()[:1])
    for length in range(0, len(data), 7):
        with pytest.raises(mrd.Ended):
            messages(data[:length])


@settings(max_examples=300)
@given(st.binary(max_size=3000), st.sampled_from([b"", *(struct.pack("<H", i) for i in mrd.Id)]))
def test_noise_is_no_stream(noise, start):
    try:
        messages(start + noise)
    except mrd.ProtocolError:
        return
    assert struct.pack("<H", 4) in start + noise
