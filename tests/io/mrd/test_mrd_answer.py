"""What goes back: pixels, place and Meta attributes of a map, read by the ismrmrd package."""

import io

import ismrmrd
import numpy as np
import pytest
from ismrmrd.serialization import ProtocolDeserializer
from made_mrd import Fire, chi_of, images_in, made, studies

from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd import writer
from qsm_runtime.io.mrd.answer import (
    Said,
    originals,
    susceptibility_images,
    unused_series,
)
from qsm_runtime.io.mrd.described import meta_of
from qsm_runtime.io.mrd.encodings import ENCODINGS, values_ppm
from qsm_runtime.io.mrd.planes import Received
from qsm_runtime.io.mrd.streams import PipeStream

SAID = Said("QSM_ppb", "a comment", {"QsmRecipe": "fast"})
GEOMETRY = ("position", "read_dir", "phase_dir", "slice_dir", "field_of_view", "matrix_size", "slice")
FOREIGN = {
    "IceMiniHead": "QUFB",
    "ImageTypeValue3": "M",
    "ReferencedGSPSSequence": "1.2",
    "MFInstanceNumber": "3",
    "SOPInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.4",
    "RescaleSlope": "3",
    "WindowCenter": "99",
    "PatientThing": "kept",
}


def maps(fire, data_type, window_ppb=400.0):
    (study,) = studies(fire)
    chi = chi_of(study.acquisition.scan)
    out = io.BytesIO()
    for image in susceptibility_images(study, chi, data_type, 7, window_ppb, SAID):
        writer.write_image(PipeStream(None, out), image)
    writer.write_close(PipeStream(None, out))
    out.seek(0)
    return study, chi, list(ProtocolDeserializer(out).deserialize())


def values(image):
    slope, intercept = float(image.meta["RescaleSlope"]), float(image.meta["RescaleIntercept"])
    return values_ppm(image.data[0], slope, intercept, image.meta["Units"])


@pytest.mark.parametrize("cube", [False, True])
@pytest.mark.parametrize("data_type", ENCODINGS)
@pytest.mark.parametrize(
    "orientation", [made.AXIAL, made.SAGITTAL, made.CORONAL, made.oblique()], ids=["tra", "sag", "cor", "oblique"]
)
def test_the_map_lies_where_the_anatomy_is(orientation, data_type, cube):
    """Each image has the header of the magnitude image whose pixels its own were made from."""
    fire = Fire(made.Protocol(orientation=orientation, acquisition="3D"), cube=cube)
    _, _, came = maps(fire, data_type)
    sources = [i for i in fire.images() if i.image_type == 1 and i.contrast == 0]
    assert len(came) == len(sources)
    half_step = {"uint16": 0.5e-3, "int16": 0.05e-3, "float32": 0}[data_type]
    for image in came:
        (source,) = [s for s in sources if tuple(s.position) == tuple(image.position)]
        for name in GEOMETRY:
            assert tuple(np.ravel(getattr(image, name))) == tuple(np.ravel(getattr(source, name))), name
        wanted = (source.data[0].astype(np.float32) - 1500) / np.float32(4000)
        np.testing.assert_allclose(values(image), wanted, atol=half_step + 1e-7)
        row = [float(v) for v in image.meta["ImageRowDir"]]
        np.testing.assert_allclose(row, orientation[:3], atol=1e-6)
        np.testing.assert_allclose([float(v) for v in image.meta["ImageColumnDir"]], orientation[3:], atol=1e-6)


def test_meta_attributes():
    fire = Fire(meta=FOREIGN)
    fire.change = lambda image, part, echo, k: _unscaled(image, part)
    _, _, came = maps(fire, "uint16", 300)
    uids = {image.meta["SOPInstanceUID"] for image in came}
    series = {image.meta["SeriesInstanceUID"] for image in came}
    assert len(uids) == len(came) == 6
    assert len(series) == 1
    assert not (uids | series) & set(FOREIGN.values())
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids | series)
    for index, image in enumerate(came):
        meta = image.meta
        assert image.data.dtype == np.uint16
        assert image.data.max() <= 4095
        assert (image.image_type, image.contrast, image.image_series_index) == (1, 0, 7)
        assert image.image_index == index + 1
        assert meta["DataRole"] == "Quantitative"
        assert meta["Keep_image_geometry"] == "1"
        assert (meta["RescaleSlope"], meta["RescaleIntercept"], meta["Units"]) == ("1", "-2048", "ppb")
        assert (meta["WindowCenter"], meta["WindowWidth"]) == ("0", "300")
        assert meta["SequenceDescriptionAdditional"] == "QSM_ppb"
        assert meta["SequenceDescription"] == "gre_qsm"
        assert meta["ImageType"] == "DERIVED\\PRIMARY\\M\\QSM"
        assert meta["PatientThing"] == "kept"
        assert meta["QsmRecipe"] == "fast"
        for name in ("IceMiniHead", "ImageTypeValue3", "ReferencedGSPSSequence", "MFInstanceNumber", "EchoTime"):
            assert name not in meta


def _unscaled(image, part):
    """The foreign rescale on the magnitude alone."""
    if part == "phase":
        image.meta = {k: v for k, v in image.meta.items() if k != "RescaleSlope"}
    return image


def test_what_whole_numbers_cost():
    """The scale is the same for every subject; its rounding is at most half a count, and what lies beyond is told."""
    rng = np.random.default_rng(0)
    chi = rng.normal(0, 0.2, (40, 40, 40)).astype(np.float32)
    for name, ppb in (("uint16", 1.0), ("int16", 0.1), ("float32", 0.0)):
        encoding = ENCODINGS[name]
        stored = encoding.stored(chi)
        back = values_ppm(stored, encoding.slope, encoding.intercept, encoding.unit)
        assert encoding.clipped(chi) == 0
        assert np.abs(back - chi).max() <= 0.5e-3 * ppb + 1e-7
        assert np.sqrt(np.mean((back - chi) ** 2)) == pytest.approx(ppb * 1e-3 / np.sqrt(12), rel=0.02, abs=1e-9)
    chi = np.array([2.5, -3.0, 0.0, 2.0474, 2.0476, -2.0484, -2.0486], np.float32)
    assert [ENCODINGS[name].clipped(chi) for name in ("uint16", "int16", "float32")] == [4, 0, 0]
    np.testing.assert_array_equal(ENCODINGS["uint16"].stored(chi), [4095, 0, 2048, 4095, 4095, 0, 0])


def test_originals_are_what_came():
    data = Fire(meta=FOREIGN).stream()
    came = images_in(data)
    received = [Received(i, image, meta_of(image.meta)) for i, image in enumerate(came)]
    for before, after in zip(came, originals(received), strict=True):
        assert before.header.tobytes() == after.header.tobytes()
        assert before.pixels is after.pixels
        assert meta_of(after.meta) == {**meta_of(before.meta), "Keep_image_geometry": ["1"]}


def test_unused_series_index():
    def numbered(*numbers):
        image = np.zeros((), mrd.IMAGE_HEADER)
        found = []
        for i, number in enumerate(numbers):
            header = image.copy()
            header["image_series_index"] = number
            found.append(Received(i, mrd.Image(header[()], b"", np.zeros((1, 1, 1, 1))), {}))
        return found

    assert unused_series(numbered(1, 2, 9)) == 10
    assert unused_series(numbered(1, 2), [3]) == 4
    assert unused_series(numbered(1, 65535)) == 2
    assert unused_series([]) == 1


def test_images_can_be_read_as_theirs():
    _, _, came = maps(Fire(), "float32")
    assert all(isinstance(image, ismrmrd.Image) for image in came)
