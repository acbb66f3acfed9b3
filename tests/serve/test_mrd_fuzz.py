"""Damaged MRD streams: whatever is in them, the conversation ends with CLOSE and nothing is raised."""

import io
import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_mrd import Fire, made
from serve_kit import FakeCore

from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.serve.log import StudyLog
from qsm_runtime.serve.mrd_conversation import Conversation, Rules

CLOSE = struct.pack("<H", 4)
FIRE = Fire(made.Protocol(shape=(6, 5, 3), echo_times_ms=(4.0, 9.0)))
STREAM = FIRE.stream(texts=[{"datatype": "int16"}])
IMAGE = struct.pack("<H", 1022)
HEADS = [i for i in range(len(STREAM)) if STREAM.startswith(IMAGE + b"\x01\x00\x01\x00", i)]


def outcome(data):
    out = io.BytesIO()
    stream = PipeStream(io.BytesIO(data), out)
    conversation = Conversation(stream, FakeCore(), StudyLog(io.StringIO()), Rules(threads=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # positions that overflow
        conversation.hold()
    assert out.getvalue().endswith(CLOSE)
    return conversation.outcome


def test_the_stream_itself():
    assert outcome(STREAM) == "answered"
    assert len(HEADS) == 12


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_bytes_changed_anywhere(changes):
    data = bytearray(STREAM)
    for place, value in changes:
        data[place] = value
    assert outcome(bytes(data)) in ("answered", "refused", "empty", "gone")


@settings(max_examples=120)
@given(
    st.lists(
        st.tuples(st.sampled_from(HEADS), st.integers(22, 197), st.binary(min_size=1, max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_headers_of_images_changed(changes):
    """Data type and matrix are kept, so that most of the stream can be read on; the rest may say anything."""
    data = bytearray(STREAM)
    for head, offset, value in changes:
        data[head + 2 + offset : head + 2 + offset + len(value)] = value
    assert len(data) == len(STREAM)
    assert outcome(bytes(data)) in ("answered", "refused", "gone")


@settings(max_examples=40)
@given(
    st.text(max_size=300)
    | st.dictionaries(st.text(max_size=12), st.none() | st.floats() | st.text(max_size=9)).map(str)
)
def test_any_text_as_parameters(text):
    assert outcome(FIRE.stream(texts=[text.encode("utf-8", "replace")])) in ("answered", "refused")


@pytest.mark.parametrize("cut", range(0, 2400, 61))
def test_pieces_left_out(cut):
    assert outcome(STREAM[:cut] + STREAM[cut + 37 :]) in ("answered", "refused", "empty", "gone")
