"""Made streams to scans: where voxels lie, what echoes, times, scales and parts are, and what is refused."""

import numpy as np
import pytest
from made_mrd import Fire, made, studies

from qsm_runtime.errors import InputError, MetadataError, UsageError
from qsm_runtime.io.dicom import assemble
from qsm_runtime.io.mrd.parameters import Parameters, parameters_of

ORIENTATIONS = {
    "axial": made.AXIAL,
    "sagittal": made.SAGITTAL,
    "coronal": made.CORONAL,
    "oblique": made.oblique(),
    "oblique sagittal": made.oblique(base=made.SAGITTAL),
    "head down": (-1, 0, 0, 0, 1, 0),
}


def only(fire, parameters=None, **how):
    (study,) = studies(fire, parameters, **how)
    return study


@pytest.mark.parametrize(("acquisition", "cube"), [("2D", False), ("3D", False), ("3D", True)])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_voxels_lie_where_the_patient_is(name, acquisition, cube):
    protocol = made.Protocol(orientation=ORIENTATIONS[name], acquisition=acquisition)
    read = only(Fire(protocol, cube=cube)).acquisition
    made.check(read, protocol)
    np.testing.assert_allclose(read.scan.grid.b0_dir, read.affine[2, :3] / read.scan.grid.voxel_mm, atol=1e-6)


PHASE = {"ge": Parameters(phase_scale="mrad")}  # GE's values alone fill no turn for sure
MAGNITUDE = {"philips": 0.5 * 1.25}  # DICOM has Philips' private factor, MRD its rescale
VENDORS = [*((v, kind) for v in ("siemens", "siemens-xa", "philips") for kind in ("2D", "3D")), ("ge", "3D")]


@pytest.mark.parametrize(("vendor", "acquisition"), VENDORS)
@pytest.mark.parametrize("name", ["axial", "oblique sagittal"])
def test_the_same_scan_as_dicom_has_the_same_voxels(name, vendor, acquisition):
    """To the bit; the geometry to what float32 positions leave of it."""
    protocol = made.Protocol(vendor=vendor, orientation=ORIENTATIONS[name], acquisition=acquisition)
    ours = only(Fire(protocol), PHASE.get(vendor)).acquisition
    (found,) = assemble(made.classic(protocol))
    theirs = found.read(threads=1)
    np.testing.assert_array_equal(ours.scan.phase_rad, theirs.scan.phase_rad)
    wanted = theirs.scan.magnitude * np.float32(MAGNITUDE.get(vendor, 1))
    np.testing.assert_allclose(ours.scan.magnitude, wanted, rtol=1e-6)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_allclose(ours.scan.grid.b0_dir, theirs.scan.grid.b0_dir, atol=1e-6)
    assert ours.scan.b0_tesla == theirs.scan.b0_tesla
    assert ours.scan.echo_times_s == theirs.scan.echo_times_s
    assert ours.phase_sign == theirs.phase_sign


def test_order_of_arrival_has_no_say():
    fire = Fire()
    one = only(fire).acquisition.scan
    images = fire.images()
    order = np.random.default_rng(1).permutation(len(images))
    other = only(fire, images=[images[i] for i in order]).acquisition.scan
    np.testing.assert_array_equal(one.phase_rad, other.phase_rad)
    np.testing.assert_array_equal(one.magnitude, other.magnitude)


def test_rows_lie_along_the_meta_attribute_where_it_differs_from_the_readout():
    protocol = made.Protocol(orientation=made.oblique())
    row, column = protocol.orientation[:3], protocol.orientation[3:]

    def turned(image, part, echo, k):
        image.read_dir, image.phase_dir = tuple(column), tuple(-v for v in row)
        meta = image.meta
        meta["ImageRowDir"], meta["ImageColumnDir"] = [list(map(repr, map(float, v))) for v in (row, column)]
        image.meta = meta
        return image

    made.check(only(Fire(protocol, change=turned)).acquisition, protocol)


def test_complex_images():
    protocol = made.Protocol()
    read = only(Fire(protocol, parts=("complex",))).acquisition
    made.check(read, protocol)
    assert read.phase_scaling == "angle of complex images"


def test_real_and_imaginary_images():
    protocol = made.Protocol(vendor="ge", acquisition="3D")
    made.check(only(Fire(protocol, parts=("real", "imaginary"))).acquisition, protocol, phase_tolerance_rad=0.02)


@pytest.mark.parametrize("dtype", ["i2", "u4", "f4", "f8"])
def test_whole_numbers_in_any_type(dtype):
    """Levels 0..4095 in another type than Siemens' own are a turn because they fill it."""

    def typed(image, part, echo, k):
        return retyped(image, image.data.astype(dtype))

    protocol = made.Protocol(shape=(40, 40, 8))
    made.check(only(Fire(protocol, change=typed)).acquisition, protocol)


def retyped(image, data):
    import ismrmrd

    other = ismrmrd.Image.from_array(data)
    head = image.getHead()
    head.data_type = other.data_type
    other.setHead(head)
    other.data[:] = data
    other.meta = image.meta
    return other


def narrow(dtype, scale, meta=None):
    """Phase that fills a small part of a turn, stored as `dtype`."""

    def change(image, part, echo, k):
        if part == "phase":
            rad = 0.3 * np.sin(image.data.astype(float) / 500 + echo)
            image = retyped(image, (rad * scale).astype(dtype))
            image.meta = {**image.meta, **(meta or {})}
        return image

    return change


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (narrow("f4", 1.0, {"Units": "rad"}), None),
        (narrow("i2", 1000.0, {"Units": "mrad"}), None),
        (narrow("f4", 1.0), Parameters(phase_scale="rad")),
        (narrow("i2", 1000.0), Parameters(phase_scale="mrad")),
        (narrow("i2", 4096 / np.pi), Parameters(phase_scale="pm4096")),
        (narrow("f4", 2.0), Parameters(phase_scale="0.5,0")),
    ],
)
def test_scale_of_a_phase_that_fills_no_turn_is_taken_from_what_states_it(change, parameters):
    scan = only(Fire(change=change), parameters).acquisition.scan
    levels = np.concatenate([i.data.ravel() for i in Fire().images() if i.image_type == 2 and i.contrast == 0])
    wanted = np.sort(0.3 * np.sin(levels.astype(float) / 500))
    np.testing.assert_allclose(np.sort(scan.phase_rad[0].ravel()), wanted, atol=2e-3)


@pytest.mark.parametrize("change", [narrow("f4", 1.0), narrow("i2", 1000.0), narrow("f4", 50.0)])
def test_ambiguous_scale_of_phase_is_refused(change):
    with pytest.raises(MetadataError, match="ambiguous"):
        only(Fire(change=change))


def test_constant_phase_is_refused():
    def flat(image, part, echo, k):
        if part == "phase":
            image.data[:] = 7
        return image

    with pytest.raises(InputError, match="constant"):
        only(Fire(change=flat))


def test_echo_times_from_the_header_or_the_images_or_by_hand():
    wanted = (0.004, 0.009, 0.014)
    assert only(Fire(meta={"EchoTime": None})).acquisition.scan.echo_times_s == wanted
    assert only(Fire(header_times=False)).acquisition.scan.echo_times_s == wanted
    given, _ = parameters_of('{"parameters": {"echotimesms": "5, 10, 15"}}')
    without = Fire(header_times=False, meta={"EchoTime": None})
    assert only(without, given).acquisition.scan.echo_times_s == (0.005, 0.010, 0.015)
    with pytest.raises(MetadataError, match="no echo time for echo 1, 2, 3"):
        only(without)
    with pytest.raises(UsageError, match="3 echoes but 2 echo times"):
        only(without, Parameters(echo_times_ms=(1.0, 2.0)))
    with pytest.raises(MetadataError, match=r"echo 1: Meta EchoTime says 5 ms, the header's TE 4 ms"):
        only(Fire(meta={"EchoTime": 5}))


def test_echoes_counted_from_one():
    def shifted(image, part, echo, k):
        image.contrast = echo + 1
        return image

    fire = Fire(meta={"EchoTime": None}, change=shifted)
    assert only(fire).acquisition.scan.echo_times_s == (0.004, 0.009, 0.014)


def test_field_strength():
    assert only(Fire()).acquisition.b0_source == "ImagingFrequency"
    header = Fire().header()
    header.experimentalConditions.H1resonanceFrequency_Hz = 63_000_000
    with pytest.raises(MetadataError, match="ImagingFrequency says"):
        only(Fire(), header=header.toXML().encode())
    bare = b"<ismrmrdHeader><sequenceParameters><TE>4</TE><TE>9</TE><TE>14</TE></sequenceParameters></ismrmrdHeader>"
    with pytest.raises(MetadataError, match="MagneticFieldStrength or ImagingFrequency"):
        only(Fire(), header=bare)


def without(part=None, echo=None, k=None):
    """Keeps images back."""

    def change(image, p, e, s):
        gone = all(want is None or want == is_ for want, is_ in ((part, p), (echo, e), (k, s)))
        return None if gone else image

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("phase", 1, 3), r"phase echo 2: 1 of 6 slices are missing \(from below: 4\)"),
        (without("magnitude", 0, 5), "magnitude echo 1: 1 of 6 slices are missing"),
        (without(None, None, 2), "1 of 6 slices is missing"),
        (without("phase", 1), "phase: echo 2 of 3 is missing"),
        (without(None, 1), "echo 2 of 3 is missing"),
        (without(None, 2), "echo 3 of 3 is missing"),
        (without("phase"), "18 magnitude images but no phase"),
        (without("magnitude"), "18 phase images but no magnitude"),
    ],
)
def test_what_is_missing_is_named(change, said):
    with pytest.raises((InputError, MetadataError), match=said):
        only(Fire(change=change))


def test_slices_that_came_twice():
    fire = Fire()
    images = fire.images()
    plain = only(fire).acquisition
    twice = only(fire, images=[*images, images[4]]).acquisition
    np.testing.assert_array_equal(plain.scan.phase_rad, twice.scan.phase_rad)
    assert "1 planes of magnitude echo 1 came twice alike; one each was used" in twice.warnings
    other = retyped(images[4], images[4].data + np.uint16(1))
    with pytest.raises(InputError, match="twice with different samples"):
        only(fire, images=[*images, other])


def test_with_and_without_distortion_correction_the_parameter_chooses():
    fire = Fire()
    corrected = Fire(change=lambda image, part, echo, k: retyped(image, image.data // np.uint16(2))).images()
    for image in corrected:
        image.image_series_index += 10
        image.meta = {**image.meta, "SequenceDescription": "gre_qsm_DIS2D"}
    images = [*fire.images(), *corrected]
    with pytest.raises(InputError, match=r"there twice, in the series .*choose with the parameter series"):
        only(fire, images=images)
    chosen = only(fire, Parameters(series="DIS2D"), images=images).acquisition.scan
    np.testing.assert_array_equal(chosen.magnitude, only(fire, images=corrected).acquisition.scan.magnitude)
    with pytest.raises(InputError, match="no series fits 'T1'"):
        only(fire, Parameters(series="T1"), images=images)


def test_one_volume_in_several_series_is_one():
    def split(image, part, echo, k):
        image.image_series_index = 10 * image.image_series_index + k % 2
        return image

    made.check(only(Fire(change=split)).acquisition, made.Protocol())


def test_repetitions_and_sets_are_scans_of_their_own():
    images = []
    for repetition in range(2):
        for image in Fire().images():
            image.repetition, image.set = repetition, repetition
            images.append(image)
    found = studies(Fire(), images=images)
    assert [s.counters for s in found] == [(0, 0, 0, 0), (1, 1, 0, 0)]
    for study in found:
        made.check(study.acquisition, made.Protocol())


def test_images_without_a_type():
    def untyped(image, part, echo, k):
        if part == "magnitude":
            image.image_type = 0
        return image

    read = only(Fire(change=untyped)).acquisition
    made.check(read, made.Protocol())
    assert "images of no stated type were taken as the magnitude of the phase images" in read.warnings

    def named(image, part, echo, k):
        image.image_type = 0
        image.meta = {**image.meta, "ImageType": f"ORIGINAL\\PRIMARY\\{'P' if part == 'phase' else 'M'}\\ND"}
        return image

    made.check(only(Fire(change=named)).acquisition, made.Protocol())

    def nameless(image, part, echo, k):
        image.image_type = 0
        return image

    with pytest.raises(InputError, match="no stated type"):
        only(Fire(change=nameless))


def test_computed_images_are_set_aside():
    swi = Fire(meta={"ImageType": "DERIVED\\PRIMARY\\M\\SWI"}).images()[:6]
    made.check(only(Fire(), images=[*swi, *Fire().images()]).acquisition, made.Protocol())


def test_one_partition_as_the_field_of_view_of_a_3d_image():
    protocol = made.Protocol(acquisition="3D")

    def partition(image, part, echo, k):
        image.field_of_view = (*list(image.field_of_view)[:2], protocol.spacing_mm[2])
        return image

    made.check(only(Fire(protocol, cube=True, change=partition)).acquisition, protocol)


def test_geometry_of_nonsense_is_refused():
    def crooked(image, part, echo, k):
        image.read_dir = (1.0, 1.0, 0.0)
        return image

    def nowhere(image, part, echo, k):
        image.position = (np.nan, 0.0, 0.0)
        return image

    def shifted(image, part, echo, k):
        x, y, z = image.position
        image.position = (x, y + 2 * k, z)
        return image

    for change, said in ((crooked, "orthogonal unit vectors"), (nowhere, "position is none"), (shifted, "sheared")):
        with pytest.raises((InputError, MetadataError), match=said):
            only(Fire(change=change))


def test_parameters():
    found, said = parameters_of(
        '{"version": "1.1.0", "parameters": {"config": "qsm", "send_original": "False", "dataType": "int16", '
        '"phasesign": "minus", "windowppb": "300", "recipe": "best", "beta": 3}}'
    )
    assert found == Parameters("best", False, "int16", "auto", "-", "", (), 300.0)
    assert said[0].startswith("unknown parameters: beta; known are datatype, echotimesms,")
    assert parameters_of("", found) == (found, [])
    assert parameters_of("openrecon", found)[0] == found
    for text in ('{"parameters": 3}', "{", '{"datatype": "int8"}', '{"windowppb": "wide"}', '{"sendoriginal": "maybe"}',
                 '{"echotimesms": "4,-1"}', '{"phasesign": "up"}'):  # fmt: skip
        with pytest.raises(UsageError):
            parameters_of(text)
