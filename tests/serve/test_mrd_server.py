"""The MRD front end over loopback: a real ismrmrd client, and every way in which one can misbehave."""

import contextlib
import io
import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from ismrmrd.serialization import ProtocolDeserializer, ProtocolSerializer
from made_mrd import Fire, chi_of, made, messages
from patience import PATIENCE_S, until
from serve_kit import FakeCore, Told

from qsm_runtime.errors import UsageError
from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd.described import meta_of
from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.serve import mrd_server
from qsm_runtime.serve.mrd_conversation import Conversation, Rules
from qsm_runtime.serve.mrd_server import Listening, MrdServer

N = 36  # images of the kit's study
CLOSE = struct.pack("<H", 4)


class Answer:
    """All that came back: images as sent, maps, texts; whether it ended with CLOSE."""

    def __init__(self, data):
        self.data = data
        self.closed, self.originals, self.maps, self.texts = False, [], [], []
        try:
            for message in mrd.Reader(PipeStream(io.BytesIO(data), None)):
                if isinstance(message, mrd.Close):
                    self.closed = True
                elif isinstance(message, mrd.Text):
                    self.texts.append(message.text)
                elif isinstance(message, mrd.Image):
                    derived = b"<value>Quantitative</value>" in message.meta
                    (self.maps if derived else self.originals).append(message)
        except mrd.Ended:
            pass

    @property
    def errors(self):
        return [text for text in self.texts if text.startswith("ERR ")]


def told(data, core=None, **rules):
    """A whole conversation through memory: the answer, the conversation, the log."""
    log, out = Told(), io.BytesIO()
    conversation = Conversation(PipeStream(io.BytesIO(data), out), core or FakeCore(), log, Rules(**rules))
    conversation.hold()
    return Answer(out.getvalue()), conversation, log


@contextlib.contextmanager
def serving(core=None, *, start=True, **how):
    """A server and its log. start: False leaves to the test to start it, when a client has said all it has to say."""
    log, patient = Told(), {"port": 0, "idle_s": PATIENCE_S, "stall_s": PATIENCE_S}
    server = MrdServer(core or FakeCore(), log, Listening(**{**patient, **how}))
    if start:
        server.start()
    try:
        yield server, log
    finally:
        server.stop()


def connect(server):
    return socket.create_connection((server.host, server.port), PATIENCE_S)


def answer_on(connection):
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
    return Answer(bytes(data))


def say(server, data):
    with connect(server) as connection:
        connection.sendall(data)
        return answer_on(connection)


def assert_answered(answer, fire=None):
    """Originals first and untouched, then a map slice by slice, then CLOSE."""
    assert answer.closed
    assert not answer.errors
    sent = (fire or Fire()).images()
    assert len(answer.originals) == len(sent)
    for before, after in zip(sent, answer.originals, strict=True):
        np.testing.assert_array_equal(before.data, after.pixels)
        assert tuple(before.position) == tuple(after.header["position"])
        assert meta_of(after.meta)["Keep_image_geometry"] == ["1"]
    assert len(answer.maps) == 6
    assert {int(m.header["image_series_index"]) for m in answer.maps} == {3}


def test_a_study_through_memory():
    core = FakeCore(chi_of=chi_of)
    answer, conversation, log = told(Fire().stream(), core)
    assert conversation.outcome == "answered"
    assert_answered(answer)
    received = messages(answer.data)
    kinds = [meta_of(m.meta).get("DataRole") if isinstance(m, mrd.Image) else type(m).__name__ for m in received]
    assert kinds.index(["Quantitative"]) == N  # after every original
    (line,) = log.events("mrd.answered")
    assert line["study"] == conversation.study == core.asked[0][0]
    assert log.events("mrd.received")[0]["images"] == N
    assert "gre_qsm" not in log.text.getvalue()
    assert not conversation.images  # their memory is given back


def test_a_real_client():
    """The ismrmrd package's own reader and writer at the other end."""
    with serving() as (server, _), connect(server) as connection:
        connection.sendall(Fire().stream(texts=[b'{"parameters": {"datatype": "float32"}}']))
        came = list(ProtocolDeserializer(connection.makefile("rb")).deserialize())
    assert [type(one) for one in came] == [ismrmrd.Image] * (N + 6)
    for image in came[N:]:
        assert image.meta["DataRole"] == "Quantitative"
        assert image.data.dtype == np.float32


@pytest.mark.parametrize(
    "text", [b'{"parameters": {"sendoriginal": false}}', b'{"parameters": {"sendoriginal": "False"}}\0']
)
def test_parameters_with_and_without_nul(text):
    answer, _, _ = told(Fire().stream(texts=[text]))
    assert (len(answer.originals), len(answer.maps)) == (0, 6)
    assert answer.closed


def test_unknown_parameters_are_warned_of_and_wrong_values_refused():
    answer, _, _ = told(Fire().stream(texts=[{"iterations": 3, "datatype": "int16"}]))
    assert any(t.startswith("WRN unknown parameters: iterations;") for t in answer.texts)
    assert len(answer.maps) == 6
    assert answer.maps[0].pixels.dtype == np.int16
    answer, conversation, _ = told(Fire().stream(texts=[{"datatype": "int8", "sendoriginal": False}]))
    assert conversation.outcome == "refused"
    assert "parameter datatype" in answer.errors[0]
    assert (len(answer.originals), len(answer.maps), answer.closed) == (N, 0, True)


def test_another_recipe_than_the_servers():
    answer, _, _ = told(Fire().stream(texts=[{"recipe": "best"}]), recipes=("fast",))
    assert any("this server answers by recipe fast, not best" in t for t in answer.texts)


def test_when_there_is_no_map_the_originals_go_back_alone():
    failing, silent = FakeCore(fail="the mask is empty"), FakeCore(gate=threading.Event())
    for core, said in ((failing, "the mask is empty"), (silent, "no answer within 0.2 s")):
        answer, conversation, log = told(Fire().stream(), core, answer_s=0.2)
        assert conversation.outcome == "refused"
        assert said in answer.errors[0]
        assert (len(answer.originals), len(answer.maps), answer.closed) == (N, 0, True)
        assert log.events("mrd.refused")


def test_a_bug_ends_with_err_and_close_too():
    class Broken(FakeCore):
        def submit(self, acquisition, study, *, early=None, recipe=None):
            raise KeyError("a bug")

    out = io.BytesIO()
    conversation = Conversation(PipeStream(io.BytesIO(Fire().stream()), out), Broken(), Told(), Rules())
    with pytest.raises(KeyError):
        conversation.hold()
    answer = Answer(out.getvalue())
    assert answer.closed
    assert answer.errors == ["ERR the server failed; the images are untouched"]


def test_a_busy_core_is_asked_again_and_then_given_up():
    answer, _, _ = told(Fire().stream(), FakeCore(busy=2))
    assert len(answer.maps) == 6
    answer, conversation, _ = told(Fire().stream(), FakeCore(busy=10**6), busy_s=0.0)
    assert (conversation.outcome, len(answer.originals)) == ("refused", N)
    assert "the queue is full" in answer.errors[0]


def test_a_late_answer_says_so():
    answer, _, _ = told(Fire().stream(), FakeCore(late=True))
    meta = meta_of(answer.maps[0].meta)
    assert meta["SequenceDescriptionAdditional"] == ["QSM_ppb_fast"]
    assert "by recipe fast to keep the deadline" in meta["ImageComments"][0]


def test_raw_data_are_refused_politely():
    out = io.BytesIO()
    serializer = ProtocolSerializer(out)
    serializer.serialize(Fire().header())
    for _ in range(20):
        serializer.serialize(ismrmrd.Acquisition.from_array(np.ones((8, 128), np.complex64)))
    serializer.serialize(ismrmrd.Waveform.from_array(np.ones((2, 7), np.uint32)))
    serializer.close()
    answer, conversation, _ = told(out.getvalue())
    assert conversation.outcome == "refused"
    assert answer.texts == [
        "ERR raw data came (20 readouts, 1 waveforms) and no images; this server takes images: emit those"
    ]
    assert answer.closed


def test_nothing_but_close():
    for data in (CLOSE, Fire().stream(images=[])):
        answer, conversation, _ = told(data)
        assert conversation.outcome == "empty"
        assert answer.closed
        assert answer.texts == ["WRN no images came; nothing was done"]


@pytest.mark.parametrize("header", [b"nonsense", b"<a>" * 1000, b"\xff\xfe" * 500, b"<ismrmrdHeader/>"])
def test_a_header_of_nonsense(header):
    answer, conversation, _ = told(Fire(meta={"EchoTime": None}).stream(header=header))
    assert conversation.outcome == "refused"
    assert len(answer.errors) == 1
    assert (len(answer.originals), len(answer.maps), answer.closed) == (N, 0, True)


def test_damaged_meta_attributes_cost_only_what_they_said():
    def damaged(image, part, echo, k):
        image._Image__meta = type("Broken", (), {"serialize": lambda self: "<ismrmrdMeta><meta>"})()
        return image

    answer, conversation, _ = told(Fire(change=damaged).stream())
    assert conversation.outcome == "answered"
    assert len(answer.maps) == 6
    assert answer.originals[0].meta == b"<ismrmrdMeta><meta>"
    assert any("no XML" in t for t in answer.texts)


@pytest.mark.parametrize(
    ("part", "echo", "k", "said"),
    [("phase", 1, 3, "1 of 6 slices are missing"), (None, 2, None, "echo 3 of 3 is missing")],
)
def test_missing_slices(part, echo, k, said):
    def change(image, p, e, s):
        gone = all(want is None or want == has for want, has in ((part, p), (echo, e), (k, s)))
        return None if gone else image

    fire = Fire(change=change)
    answer, conversation, _ = told(fire.stream())
    assert conversation.outcome == "refused"
    assert said in answer.errors[0]
    assert (len(answer.originals), len(answer.maps), answer.closed) == (len(fire.images()), 0, True)


def test_duplicate_slices_are_used_once_and_all_go_back():
    images = Fire().images()
    answer, conversation, _ = told(Fire().stream(images=[*images, *images[:3]]))
    assert conversation.outcome == "answered"
    assert (len(answer.originals), len(answer.maps)) == (N + 3, 6)
    assert any("came twice alike" in t for t in answer.texts)


def test_ambiguous_scale_of_phase():
    def narrow(image, part, echo, k):
        if part == "phase":
            image.data[:] = 2000 + image.data % 100
            image.meta = {**image.meta, "RescaleSlope": 3}
        return image

    answer, conversation, _ = told(Fire(change=narrow).stream())
    assert conversation.outcome == "refused"
    assert "ambiguous" in answer.errors[0]
    assert "parameter phasescale" in answer.errors[0]
    assert len(answer.originals) == N


def test_echoes_are_worked_on_as_soon_as_they_are_whole():
    core = FakeCore()
    told(Fire().stream(), core)
    (head,) = core.heads
    _, acquisition, early = core.asked[0]
    assert early is head
    assert [index for index, _, _, _ in head.fed] == [0, 1, 2]
    for index, magnitude, phase_rad, how in head.fed:
        np.testing.assert_array_equal(magnitude, acquisition.scan.magnitude[index])
        np.testing.assert_array_equal(phase_rad, acquisition.scan.phase_rad[index])
        assert how["grid"] == acquisition.scan.grid
        assert how["echo_times_s"] == acquisition.scan.echo_times_s
        assert how["b0_tesla"] == acquisition.scan.b0_tesla
    assert not head.cancelled


def test_early_work_is_given_up_with_its_study():
    core = FakeCore()
    data = Fire().stream()
    told(data[: len(data) * 3 // 4], core)
    assert core.heads[0].cancelled
    assert not core.asked


def test_repetitions_come_back_as_series_of_their_own():
    images = []
    for repetition in range(2):
        for image in Fire().images():
            image.repetition = repetition
            images.append(image)
    answer, _, _ = told(Fire().stream(images=images))
    assert len(answer.originals) == 2 * N
    found = [(int(m.header["repetition"]), int(m.header["image_series_index"])) for m in answer.maps]
    assert found == [(0, 3)] * 6 + [(1, 4)] * 6


def test_a_client_that_vanishes_in_the_middle_of_a_study():
    core = FakeCore()
    data = Fire().stream()
    with serving(core) as (server, log):
        for length in (1, 700, len(data) // 2, len(data) - 1):
            with connect(server) as connection:
                connection.sendall(data[:length])
        until(lambda: not server.state()["connections"])
        assert_answered(say(server, data))
    assert len(core.asked) == 1
    assert server.state()["gone"] == 4
    assert len(log.events("mrd.refused")) == 4


def test_a_client_that_closes_its_half_without_close_gets_its_images_back():
    data = Fire().stream(close=False)
    with serving() as (server, _), connect(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = answer_on(connection)
    assert (len(answer.originals), len(answer.maps), answer.closed) == (N, 0, True)
    assert "before CLOSE" in answer.errors[0]


@pytest.mark.parametrize("said", [0, 1, 1000, None])
def test_a_silent_client(said):
    """Before, within or between messages: it is told so and let go."""
    data = Fire().stream(close=False)[:said]
    with serving(start=False, idle_s=0.3, stall_s=0.3) as (server, _), connect(server) as connection:
        connection.sendall(data)
        server.start()
        answer = answer_on(connection)
    assert answer.closed
    assert "nothing came for 0.3 s" in answer.errors[0]
    assert len(answer.originals) == (N if said is None else 0)


def test_a_client_that_does_not_read():
    with serving(start=False, stall_s=0.3) as (server, log), socket.socket() as connection:
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # little is on the way
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect((server.host, server.port))
        connection.sendall(Fire().stream())
        server.start()
        until(lambda: log.events("mrd.gone"))
        assert "did not read" in log.events("mrd.gone")[0]["reason"]


def test_two_clients_at_once():
    core = FakeCore()
    fires = [Fire(made.Protocol(orientation=o)) for o in (made.AXIAL, made.SAGITTAL)]
    with serving(core) as (server, _):
        connections = [connect(server) for _ in fires]
        streams = [fire.stream() for fire in fires]
        for start in range(0, max(map(len, streams)), 5000):  # a piece of each in turn
            for connection, data in zip(connections, streams, strict=True):
                connection.sendall(data[start : start + 5000])
        for connection, fire in zip(connections, fires, strict=True):
            with connection:
                assert_answered(answer_on(connection), fire)
    assert len({study for study, _, _ in core.asked}) == 2
    assert server.state()["answered"] == 2


def test_more_clients_than_allowed():
    with serving(clients=1) as (server, _), connect(server) as first:
        first.sendall(Fire().stream()[:100])
        until(lambda: server.state()["connections"] == 1)
        answer = say(server, b"")
        assert answer.errors == ["ERR the server has 1 clients already; send the images again later"]
        assert answer.closed
        assert server.state()["turned_away"] == 1


def test_100_mb_of_noise(monkeypatch):
    """Refused at its first bytes, the rest thrown away; the next study is answered."""
    noise = np.random.default_rng(0).integers(0, 256, 100_000_000, np.uint8)
    noise[:2] = 0xEE  # no message has this id
    monkeypatch.setattr(mrd_server, "LINGER_S", PATIENCE_S)
    with serving() as (server, _):
        answer = say(server, noise.data)
        assert answer.closed
        assert answer.errors == ["ERR no MRD stream: message id 61166 is unknown"]
        assert_answered(say(server, Fire().stream()))


def test_noise_of_every_beginning_never_hangs():
    rng = np.random.default_rng(1)
    with serving(idle_s=0.2, stall_s=0.2) as (server, _):
        for number in [*mrd.Id, 0]:
            noise = struct.pack("<H", number) + rng.integers(0, 256, 20_000, np.uint8).tobytes()
            assert say(server, noise).closed
        server._listening = replace(server._listening, idle_s=PATIENCE_S, stall_s=PATIENCE_S)
        assert_answered(say(server, Fire().stream()))


def test_a_port_that_is_taken_is_told_at_once():
    with serving() as (server, _), pytest.raises(UsageError, match="cannot be listened on"):
        MrdServer(FakeCore(), Told(), Listening(port=server.port))


def test_stopping_ends_idle_clients_and_lets_studies_finish():
    data, core = Fire().stream(), FakeCore()
    with serving(core) as (server, _):
        idle, busy = connect(server), connect(server)
        busy.sendall(data[: len(data) // 2])
        until(lambda: server.state()["connections"] == 2 and core.heads)  # the first echo has come
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with idle:
            answer = answer_on(idle)
        assert "the server is stopping" in answer.errors[0]
        busy.sendall(data[len(data) // 2 :])
        with busy:
            assert_answered(answer_on(busy))
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()


def held():
    """Threads and open files of this process."""
    descriptors = Path("/proc/self/fd")
    return threading.active_count(), len(list(descriptors.iterdir())) if descriptors.is_dir() else 0


def test_twenty_studies_leave_nothing_behind():
    data = Fire().stream()
    with serving() as (server, _):
        say(server, data)
        until(lambda: not server.state()["connections"])
        before = held()
        for _ in range(20):
            assert say(server, data).closed
        until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


WISHES = [
    ({"texts": [{"recipe": "default"}]}, "default"),
    ({"texts": [{"recipe": "Default"}], "config": "qsm_best"}, "default"),  # what the study says counts most
    ({"config": "qsm_default"}, "default"),
    ({"config": "qsm-default.xml"}, "default"),
    ({"config": "qsm"}, None),
    ({"texts": [{"recipe": "auto"}]}, None),
]


@pytest.mark.parametrize(("said", "granted"), WISHES)
def test_a_recipe_that_is_allowed_is_granted(said, granted):
    core = FakeCore()
    answer, _, log = told(Fire().stream(**said), core, recipes=("fast", "default"))
    assert core.wishes == [granted]
    assert not answer.texts
    (line,) = log.events("mrd.answered")
    assert line.get("asked", "").casefold() == (granted or "")


def test_a_recipe_in_the_header_is_granted_too():
    header = Fire().header()
    header.userParameters = xsd.userParametersType(
        userParameterString=[xsd.userParameterStringType(name="qsm_recipe", value="default")]
    )
    core = FakeCore()
    told(Fire().stream(header=header.toXML().encode()), core, recipes=("fast", "default"))
    assert core.wishes == ["default"]


@pytest.mark.parametrize("wish", ["best", "../../etc/passwd", "best\n\1<x>"])
def test_a_recipe_that_is_not_allowed_is_refused_in_words(wish):
    """The server's own answers, and the map says which and which not."""
    core = FakeCore()
    answer, conversation, _ = told(Fire().stream(texts=[{"recipe": wish}]), core, recipes=("fast", "default"))
    assert conversation.outcome == "answered"
    assert core.wishes == [None]
    (said,) = answer.texts
    assert said.startswith("WRN this server answers by recipe fast, not ")
    assert "default may be asked for too; start it with --allow-recipe" in said
    meta = meta_of(answer.maps[0].meta)
    assert "; by recipe fake, not " in meta["ImageComments"][0]
    assert meta["QsmRecipe"] == ["fake"]
    assert set("/<\n\1") & set(meta["ImageComments"][0]) == set()
