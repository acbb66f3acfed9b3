"""The XML of MRD: headers by ismrmrd.xsd, headers nobody's schema has, Meta attributes."""

import ismrmrd
import pytest
from ismrmrd import xsd
from made_mrd import Fire, made

from qsm_runtime.errors import InputError, MetadataError
from qsm_runtime.io.mrd.described import keeping_geometry, measurement_of, meta_of, meta_xml, number_in

MINIMAL = '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{}</ismrmrdHeader>'


def test_header_as_the_ismrmrd_package_writes_it():
    header = Fire(made.Protocol(acquisition="3D")).header()
    found = measurement_of(header.toXML())
    assert found.echo_times_ms == (4.0, 9.0, 14.0)
    assert found.frequency_hz == 123_250_000
    assert found.field_tesla == 2.89
    assert (found.vendor, found.protocol, found.identity) == ("SIEMENS", "gre_qsm", "1.2.3.4.5.6")
    assert (found.slices, found.volumetric, found.slice_step_mm) == (6, True, 3.0)
    flat = measurement_of(Fire().header().toXML())
    assert (flat.slices, flat.volumetric) == (6, False)


def test_header_with_elements_that_no_schema_has_and_without_those_it_asks_for():
    found = measurement_of(
        MINIMAL.format("<vendorThing><deep>1</deep></vendorThing><sequenceParameters><TE>3</TE></sequenceParameters>")
    )
    assert found.echo_times_ms == (3.0,)
    assert found.frequency_hz is found.field_tesla is found.slices is None
    assert measurement_of("<ismrmrdHeader><sequenceParameters><TE>3</TE></sequenceParameters></ismrmrdHeader>") == found


def test_trailing_zeros_are_no_echo_times():
    times = "".join(f"<TE>{t}</TE>" for t in (4, 9, 0, 0))
    assert measurement_of(MINIMAL.format(f"<sequenceParameters>{times}</sequenceParameters>")).echo_times_ms == (4, 9)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("", "no XML"),
        ("nonsense <<<", "no XML"),
        ("\x00\x01\x02", "no XML"),
        ("<other/>", "expected ismrmrdHeader"),
        ('<!DOCTYPE a [<!ENTITY b "bbbb">]><ismrmrdHeader>&b;</ismrmrdHeader>', "document type"),
        (MINIMAL.format("<sequenceParameters><TE>soon</TE></sequenceParameters>"), "TE must be a number"),
        (MINIMAL.format("<sequenceParameters><TE>nan</TE></sequenceParameters>"), "TE must be a number"),
        (MINIMAL.format("<sequenceParameters><TE>0.004</TE></sequenceParameters>"), "no milliseconds"),
        ("<a>" * 100_000, "no XML"),
    ],
)
def test_headers_of_nonsense_are_refused(xml, said):
    with pytest.raises((InputError, MetadataError), match=said):
        measurement_of(xml)


def test_meta_there_and_back():
    theirs = ismrmrd.Meta()
    theirs.update({"DataRole": ["Image", "AVE"], "EchoTime": 4.5, "Odd <&>": "ä"})
    found = meta_of(theirs.serialize().encode() + b"\0")
    assert found == {"DataRole": ["Image", "AVE"], "EchoTime": ["4.5"], "Odd <&>": ["ä"]}
    assert number_in(found, "EchoTime") == 4.5
    assert number_in(found, "Nothing") is None
    again = ismrmrd.Meta.deserialize(meta_xml(found).decode())
    assert again == {"DataRole": ["Image", "AVE"], "EchoTime": "4.5", "Odd <&>": "ä"}
    assert meta_of(b"") == meta_of(b" \0") == {}
    with pytest.raises(InputError):
        meta_of(b"<ismrmrdHeader/>")


def test_originals_keep_every_attribute_and_their_geometry():
    theirs = ismrmrd.Meta()
    theirs.update({"IceMiniHead": "AAAA", "B": ["1", "2"]})
    text = theirs.serialize().encode()
    kept = keeping_geometry(text)
    assert meta_of(kept) == {**meta_of(text), "Keep_image_geometry": ["1"]}
    assert kept.startswith(text[: text.rfind(b"</ismrmrdMeta>")])
    assert keeping_geometry(kept) == kept
    theirs["Keep_image_geometry"] = 0
    assert meta_of(keeping_geometry(theirs.serialize().encode())) == meta_of(kept)
    assert meta_of(keeping_geometry(b"")) == {"Keep_image_geometry": ["1"]}
    assert keeping_geometry(b"no xml at all") == b"no xml at all"


def test_kit_header_is_valid_by_their_schema():
    assert xsd.CreateFromDocument(Fire().header().toXML()).sequenceParameters.TE == [4.0, 9.0, 14.0]
