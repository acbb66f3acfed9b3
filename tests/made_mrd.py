"""Made MRD: the field of values of the made DICOM, sent as a scanner would, written by the ismrmrd package."""

import io
import json
import struct
from dataclasses import dataclass, field

import ismrmrd
import made_dicom as made
import numpy as np
from ismrmrd import xsd
from ismrmrd.serialization import ConfigFile, ProtocolSerializer

from qsm_runtime.io.mrd import protocol as mrd
from qsm_runtime.io.mrd.described import measurement_of, meta_of
from qsm_runtime.io.mrd.parameters import Parameters
from qsm_runtime.io.mrd.planes import Received, planes_of, why_not
from qsm_runtime.io.mrd.read import read_scan
from qsm_runtime.io.mrd.stacks import scans_of
from qsm_runtime.io.mrd.streams import PipeStream

TYPES = {"magnitude": 1, "phase": 2, "real": 3, "imaginary": 4, "complex": 5}


@dataclass
class Fire:
    """A scanner. cube: one 3-D image an echo and part instead of slices. meta: attributes of every image.

    change(image, part, echo, slice) may alter an image before it is sent, or return None to keep it back.
    """

    protocol: made.Protocol = field(default_factory=made.Protocol)
    parts: tuple = ("magnitude", "phase")
    cube: bool = False
    meta: dict = field(default_factory=dict)
    header_times: bool = True
    change: object = None

    def header(self):
        p = self.protocol
        sizes, extent = p.shape, [n * v for n, v in zip(p.shape, p.spacing_mm, strict=True)]
        space = xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=sizes[0], y=sizes[1], z=sizes[2] if p.acquisition == "3D" else 1),
            fieldOfView_mm=xsd.fieldOfViewMm(
                x=extent[0], y=extent[1], z=extent[2] if p.acquisition == "3D" else p.spacing_mm[2]
            ),
        )
        slices = xsd.limitType(minimum=0, maximum=sizes[2] - 1, center=sizes[2] // 2)
        encoding = xsd.encodingType(
            encodedSpace=space, reconSpace=space, encodingLimits=xsd.encodingLimitsType(slice=slices),
            trajectory=xsd.trajectoryType.CARTESIAN,
        )  # fmt: skip
        return xsd.ismrmrdHeader(
            measurementInformation=xsd.measurementInformationType(
                patientPosition=xsd.patientPositionType.HFS, measurementID="1.2.3.4.5.6", protocolName="gre_qsm"
            ),
            acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
                systemVendor=made.MAKERS[p.vendor], systemFieldStrength_T=2.89
            ),
            experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=int(p.frequency_mhz * 1e6)),
            encoding=[encoding],
            sequenceParameters=xsd.sequenceParametersType(TE=list(p.echo_times_ms) if self.header_times else []),
        )

    def images(self):
        found = []
        for echo in range(len(self.protocol.echo_times_ms)):
            planes = list(self.protocol.planes())
            for part in self.parts:
                stored = [self._samples(part, place, echo, k) for k, _, place in planes]
                if self.cube:
                    centre = (planes[0][1] + planes[-1][1]) / 2
                    found += self._image(part, echo, 0, centre, np.stack([s for s, _, _ in stored]), *stored[0][1:])
                    continue
                for (k, position, _), (samples, slope, intercept) in zip(planes, stored, strict=True):
                    found += self._image(part, echo, k, position, samples[None], slope, intercept)
        return found

    def stream(self, *, images=None, header=None, texts=(), config="qsm", close=True):
        """The bytes of a client; texts may be bytes, sent as they are."""
        out = io.BytesIO()
        serializer = ProtocolSerializer(out)
        serializer.serialize(ConfigFile(config))
        if header is None:
            serializer.serialize(self.header())
        else:
            out.write(struct.pack("<HI", 3, len(header)) + header)
        for text in texts:
            data = json.dumps({"parameters": text}).encode() + b"\0" if isinstance(text, dict) else text
            out.write(struct.pack("<HI", 5, len(data)) + data)
        for image in self.images() if images is None else images:
            serializer.serialize(image)
        if close:
            serializer.close()
        return out.getvalue()

    def _samples(self, part, place, echo, k):
        if part != "complex":
            return made.stored(self.protocol, part, place, echo, k)
        magnitude, phase = self.protocol.values(place, echo)
        return (magnitude * np.exp(1j * phase)).astype(np.complex64), None, None

    def _image(self, part, echo, k, position, samples, slope, intercept):
        p = self.protocol
        row, column = np.array(p.orientation[:3], float), np.array(p.orientation[3:], float)
        centre = position + row * p.spacing_mm[0] * (p.shape[0] - 1) / 2
        centre = centre + column * p.spacing_mm[1] * (p.shape[1] - 1) / 2
        image = ismrmrd.Image.from_array(samples)
        image.field_of_view = (
            p.spacing_mm[0] * p.shape[0], p.spacing_mm[1] * p.shape[1], p.spacing_mm[2] * len(samples)
        )  # fmt: skip
        image.position = tuple(centre)
        image.read_dir, image.phase_dir, image.slice_dir = tuple(row), tuple(column), tuple(np.cross(row, column))
        image.image_type, image.image_series_index = TYPES[part], TYPES[part]
        image.contrast, image.slice = echo, k
        image.image_index = echo * p.shape[2] + k + 1
        meta = {"SequenceDescription": "gre_qsm", "EchoTime": p.echo_times_ms[echo], **self.meta}
        if not self.header_times:
            meta.setdefault("EchoTime", p.echo_times_ms[echo])
        if slope is not None:
            meta |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        image.meta = {name: value for name, value in meta.items() if value is not None}
        if self.change is not None:
            image = self.change(image, part, echo, k)
        return [] if image is None else [image]


def messages(data):
    """What our reader makes of bytes."""
    return list(mrd.Reader(PipeStream(io.BytesIO(data), None)))


def images_in(data):
    return [m for m in messages(data) if isinstance(m, mrd.Image)]


def studies(fire, parameters=None, **how):
    """Scans of a made stream, read as the server reads them."""
    came = messages(fire.stream(**how))
    measurement = measurement_of(next(m.text for m in came if isinstance(m, mrd.Header)))
    received = [Received(i, m, meta_of(m.meta)) for i, m in enumerate(m for m in came if isinstance(m, mrd.Image))]
    planes = [
        plane
        for one in received
        if not why_not(one)
        for plane in planes_of(one, measurement.volumetric, measurement.slice_step_mm)
    ]
    parameters = parameters or Parameters()
    return [read_scan(scan, measurement, parameters, threads=1) for scan in scans_of(planes, parameters.series)]


def chi_of(scan):
    """A susceptibility that tells places apart: of the first echo's magnitude."""
    return (scan.magnitude[0] - 1500) / np.float32(4000)
