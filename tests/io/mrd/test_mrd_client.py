"""What our client sends: by the schema, and exact."""

import io

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from ismrmrd.serialization import ProtocolDeserializer
from made_mrd import messages

from qsm_runtime.errors import MetadataError, ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd.client import Outgoing, Reply
from qsm_runtime.io.mrd.described import measurement_of, meta_of
from qsm_runtime.io.mrd.parameters import Parameters, parameters_of
from qsm_runtime.io.mrd.planes import Received, planes_of
from qsm_runtime.io.mrd.read import read_scan
from qsm_runtime.io.mrd.stacks import scans_of
from qsm_runtime.io.mrd.streams import PipeStream
from qsm_runtime.scan import Scan

SHAPE, VOXEL_MM, TIMES_S = (9, 8, 7), (0.9, 1.1, 1.3), (0.0047, 0.0101)


def turned(degrees, flips, order):
    """An affine: axes permuted and flipped, then turned about the world's x and z."""
    a, b = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    axes = (about_z @ about_x @ np.eye(3))[:, order] * flips
    affine = np.eye(4)
    affine[:3, :3] = axes * VOXEL_MM
    affine[:3, 3] = -31.7, 12.9, 44.4
    return affine


def acquisition_of(affine, *, manufacturer="", seed=0):
    rng = np.random.default_rng(seed)
    magnitude = rng.uniform(1, 900, (2, *SHAPE)).astype(np.float32)
    phase = rng.uniform(-0.4, 0.4, (2, *SHAPE)).astype(np.float32)
    scan = Scan(magnitude, phase, TIMES_S, 2.8936, Grid.from_affine(SHAPE, affine))
    return Acquisition(
        scan, Placement(affine, affine, 1, affine, 1), "scan", (), "", 1, "", "", manufacturer=manufacturer
    )


def sent(outgoing):
    out = io.BytesIO()
    outgoing.send(PipeStream(None, out))
    return out.getvalue()


def received(data):
    """The study that the server reads from these bytes."""
    came = messages(data)
    measurement = measurement_of(next(m.text for m in came if isinstance(m, mrd.Header)))
    parameters, _ = parameters_of(next(m.text for m in came if isinstance(m, mrd.Text)))
    images = [m for m in came if isinstance(m, mrd.Image)]
    planes = [p for i, m in enumerate(images) for p in planes_of(Received(i, m, meta_of(m.meta)), False, None)]
    (scan,) = scans_of(planes)
    return read_scan(scan, measurement, parameters, threads=1)


AFFINES = {
    "ras": turned((0, 0), (1, 1, 1), (0, 1, 2)),
    "lps": turned((0, 0), (-1, -1, 1), (0, 1, 2)),
    "las": turned((0, 0), (-1, 1, 1), (0, 1, 2)),
    "sagittal": turned((0, 0), (1, -1, 1), (1, 2, 0)),
    "oblique": turned((25, -10), (1, 1, 1), (0, 1, 2)),
    "oblique, mirrored": turned((25, -10), (1, 1, -1), (2, 0, 1)),
}


@pytest.mark.parametrize("manufacturer", ["", "GE MEDICAL SYSTEMS", "SIEMENS"])
@pytest.mark.parametrize("name", AFFINES)
def test_a_scan_sent_is_the_scan_received_to_the_bit(name, manufacturer):
    acquisition = acquisition_of(AFFINES[name], manufacturer=manufacturer)
    read = received(sent(Outgoing(acquisition))).acquisition
    np.testing.assert_array_equal(read.scan.phase_rad, acquisition.scan.phase_rad)
    np.testing.assert_array_equal(read.scan.magnitude, acquisition.scan.magnitude)
    assert read.scan.grid == acquisition.scan.grid
    assert read.scan.echo_times_s == acquisition.scan.echo_times_s
    assert read.scan.b0_tesla == acquisition.scan.b0_tesla
    np.testing.assert_array_equal(read.affine, acquisition.affine)


@pytest.mark.parametrize("name", AFFINES)
def test_without_the_exact_values_geometry_is_that_of_the_images(name):
    acquisition = acquisition_of(AFFINES[name])
    read = received(sent(Outgoing(acquisition)).replace(b"qsm_exact", b"not_exact")).acquisition
    wanted = acquisition.affine
    for index in ((0, 0, 0), (3, 2, 1), (8, 7, 6)):  # the same value at the same place, in whatever order of axes
        place = wanted @ (*index, 1)
        at = np.rint(np.linalg.inv(read.affine) @ place)[:3].astype(int)
        np.testing.assert_allclose(read.affine @ (*at, 1), place, atol=1e-3)
        assert read.scan.magnitude[(1, *at)] == acquisition.scan.magnitude[(1, *index)]


def test_exact_values_that_contradict_the_images_are_refused():
    data = sent(Outgoing(acquisition_of(AFFINES["ras"])))
    assert b"-31.7" in data
    for right, wrong in ((b"-31.7", b"-31.0"), (b"+c+r+s", b"+c-r+s"), (b"2.8936}", b"2.7936}")):
        with pytest.raises(MetadataError, match="qsm_exact of the MRD header contradicts"):
            received(data.replace(right, wrong))
    with pytest.raises(MetadataError, match="malformed"):
        received(data.replace(b"+c+r+s", b"+c+c+s"))


def test_header_and_images_are_theirs():
    """The ismrmrd package reads the header by its schema, and every image."""
    data = sent(Outgoing(acquisition_of(AFFINES["oblique"], manufacturer="A & B")))
    came = list(ProtocolDeserializer(io.BytesIO(data.replace(b"}}\0", b"}} "))).deserialize())
    (header,) = [one for one in came if isinstance(one, xsd.ismrmrdHeader)]
    assert list(header.sequenceParameters.TE) == pytest.approx([4.7, 10.1])
    assert header.acquisitionSystemInformation.systemVendor == "A & B"
    assert header.experimentalConditions.H1resonanceFrequency_Hz == pytest.approx(2.8936 * 42.577478518e6, abs=1)
    images = [one for one in came if isinstance(one, ismrmrd.Image)]
    assert len(images) == 2 * 2 * SHAPE[2]
    assert [images[0].image_type, images[1].image_type] == [1, 2]
    assert images[-1].contrast == 1
    assert images[0].data.shape == (1, 1, SHAPE[1], SHAPE[0])


def test_twelve_bits_as_a_console_sends_them():
    acquisition = acquisition_of(AFFINES["oblique"])
    read = received(sent(Outgoing(acquisition, "uint16"))).acquisition
    assert np.abs(read.scan.phase_rad - acquisition.scan.phase_rad).max() <= np.pi / 4096 + 1e-6
    assert read.phase_scaling.startswith("pm4096 by the header")
    assert read.scan.magnitude.max() == 4095


def test_reply_without_a_map():
    outgoing = Outgoing(acquisition_of(AFFINES["ras"]))
    reply = Reply()
    reply.take(mrd.Text("ERR nothing works"))
    reply.take(mrd.Text("WRN beware"))
    assert (reply.errors, reply.warnings) == (["nothing works"], ["beware"])
    with pytest.raises(ReconstructionError, match="no map came back: nothing works"):
        reply.map_ppm(outgoing)
    assert Parameters().data_type == "uint16"
