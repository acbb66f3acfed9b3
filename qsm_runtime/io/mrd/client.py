"""A scan as the messages FIRE would send, and the map in what comes back: for tests and offline use."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from xml.sax.saxutils import escape

import numpy as np

from qsm_runtime.errors import InputError, QsmError, ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.dicom.geometry import LPS_TO_RAS, Layout
from qsm_runtime.io.mrd.answer import OWN_NAME
from qsm_runtime.io.mrd.described import EXACT, NAMESPACE, meta_of, meta_xml, number_in
from qsm_runtime.io.mrd.encodings import values_ppm
from qsm_runtime.io.mrd.exact import Exact
from qsm_runtime.io.mrd.protocol import (
    DATA_TYPES,
    IMAGE_HEADER,
    Close,
    Image,
    Message,
    Reader,
    Stream,
    Text,
)
from qsm_runtime.io.mrd.writer import write_close, write_config, write_header, write_image, write_text
from qsm_runtime.units import GAMMA_HZ_PER_T, TWO_PI

SendType = Literal["float32", "uint16"]
LEVELS = 4096  # of the 12 bits of a console
SAME_DIRECTION = 1e-4  # a grid is rounded, an affine is not
SERIES = {"magnitude": 1, "phase": 2}  # image series index; the image types have the same numbers
LETTERS = {"magnitude": "M", "phase": "P"}


@dataclass(frozen=True)
class Outgoing:
    """A scan ready to be sent. data_type float32: as it is, to the bit; uint16: 12 bits, as a console's images.

    Pixels lie as the arrays do: columns along x, rows along y, slices along z upwards or downwards of their normal.
    """

    acquisition: Acquisition
    data_type: SendType = "float32"
    name: str = "qsm"

    def __post_init__(self) -> None:
        if self.data_type not in get_args(SendType):
            raise InputError(f"data type {self.data_type!r} is none of {', '.join(get_args(SendType))}")
        _ = self.affine

    @property
    def affine(self) -> np.ndarray:
        """The affine whose world is the scanner's. Raises InputError where the direction of B0 is not that affine's."""
        placement, grid = self.acquisition.placement, self.acquisition.scan.grid
        for affine in (placement.affine, placement.sform, placement.qform):
            if np.allclose(Grid.from_affine(grid.shape, affine).b0_dir, grid.b0_dir, rtol=0, atol=SAME_DIRECTION):
                return np.asarray(affine, float)
        raise InputError("the direction of B0 is not that of the images' orientation, and MRD cannot say so")

    @property
    def layout(self) -> Layout:
        handed = np.linalg.det(self._lps[:3, :3])
        return Layout((0, 1, 2), (False, False, bool(handed < 0)))

    @property
    def _lps(self) -> np.ndarray:
        lps = self.affine.copy()
        lps[:3] = LPS_TO_RAS @ lps[:3]
        return lps

    def header(self) -> str:
        """The XML header, by ismrmrd.xsd."""
        scan = self.acquisition.scan
        exact = Exact(self.affine, self.layout, scan.echo_times_s, scan.b0_tesla).text()
        voxel, shape = scan.grid.voxel_mm, scan.grid.shape
        space = (
            f"<matrixSize>{_xyz(shape)}</matrixSize>"
            f"<fieldOfView_mm>{_xyz([v * n for v, n in zip(voxel, shape, strict=True)])}</fieldOfView_mm>"
        )
        echoes = "".join(f"<TE>{1000 * t!r}</TE>" for t in scan.echo_times_s)
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ismrmrdHeader xmlns="{NAMESPACE}">'
            f"<measurementInformation><patientPosition>HFS</patientPosition>"
            f"<protocolName>{escape(self.name)}</protocolName></measurementInformation>"
            f"<acquisitionSystemInformation><systemVendor>{escape(self.acquisition.manufacturer)}</systemVendor>"
            f"<systemFieldStrength_T>{scan.b0_tesla!r}</systemFieldStrength_T></acquisitionSystemInformation>"
            "<experimentalConditions><H1resonanceFrequency_Hz>"
            f"{round(scan.b0_tesla * GAMMA_HZ_PER_T)}</H1resonanceFrequency_Hz></experimentalConditions>"
            f"<encoding><encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace><encodingLimits>"
            f"<slice><minimum>0</minimum><maximum>{shape[2] - 1}</maximum><center>{shape[2] // 2}</center></slice>"
            "</encodingLimits><trajectory>cartesian</trajectory></encoding>"
            f"<sequenceParameters>{echoes}</sequenceParameters><userParameters><userParameterString>"
            f"<name>{EXACT}</name><value>{escape(exact)}</value></userParameterString></userParameters></ismrmrdHeader>"
        )

    def images(self) -> Iterator[Image]:
        """Echo by echo, slice by slice, magnitude before phase."""
        scan = self.acquisition.scan
        brightest = float(scan.magnitude.max())
        for echo in range(scan.n_echoes):
            planes = {
                "magnitude": self.layout.planes(scan.magnitude[echo]),
                "phase": self.layout.planes(scan.phase_rad[echo]),
            }
            for number in range(len(planes["phase"])):
                for part, volume in planes.items():
                    yield self._image(part, echo, number, volume[number], brightest)

    def _image(self, part: str, echo: int, number: int, plane: np.ndarray, brightest: float) -> Image:
        scan, lps = self.acquisition.scan, self._lps
        nx, ny, nz = scan.grid.shape
        voxel = scan.grid.voxel_mm
        k = nz - 1 - number if self.layout.flips[2] else number
        row, column = (lps[:3, axis] / np.linalg.norm(lps[:3, axis]) for axis in (0, 1))
        meta: dict[str, list[str]] = {
            "DataRole": ["Image"],
            "ImageType": [f"ORIGINAL\\PRIMARY\\{LETTERS[part]}"],
            "SequenceDescription": [self.name],
            "EchoTime": [repr(1000 * scan.echo_times_s[echo])],
            "ImageRowDir": [f"{v:.18f}" for v in row],
            "ImageColumnDir": [f"{v:.18f}" for v in column],
        }
        if self.data_type == "uint16" and part == "phase":
            levels = np.rint((plane + np.pi) * (LEVELS / TWO_PI)) % LEVELS
            pixels = levels.astype("<u2")
            meta |= {"RescaleSlope": ["2"], "RescaleIntercept": [str(-LEVELS)]}
        elif self.data_type == "uint16":
            pixels = np.rint(plane * ((LEVELS - 1) / brightest)).astype("<u2")
        else:
            pixels = np.ascontiguousarray(plane, "<f4")
            if part == "phase":
                meta["Units"] = ["rad"]
        header = np.zeros((), IMAGE_HEADER)
        header["version"] = 1
        header["data_type"] = DATA_TYPES[pixels.dtype]
        header["matrix_size"] = nx, ny, 1
        header["field_of_view"] = voxel[0] * nx, voxel[1] * ny, voxel[2]
        header["channels"] = 1
        header["position"] = (lps @ ((nx - 1) / 2, (ny - 1) / 2, k, 1))[:3]
        header["read_dir"], header["phase_dir"] = row, column
        header["slice_dir"] = np.cross(row, column)
        header["slice"], header["contrast"] = number, echo
        header["image_type"] = header["image_series_index"] = SERIES[part]
        header["image_index"] = echo * nz + number + 1
        return Image(header[()], meta_xml(meta), pixels[None, None])

    def send(self, stream: Stream, parameters: Mapping[str, Any] | None = None) -> None:
        """The whole conversation of a client, CLOSE included."""
        write_config(stream, "qsm")
        write_header(stream, self.header())
        # the sign of the phase is settled: what is sent is the project's
        given = {"config": "qsm", "phasesign": "plus", **(parameters or {})}
        write_text(stream, json.dumps({"version": "1.1.0", "parameters": given}))
        for image in self.images():
            write_image(stream, image)
        write_close(stream)


@dataclass
class Reply:
    """What a server sent: the map's pixels as values in ppm by slice counter, how many other images, its texts."""

    planes_ppm: dict[int, np.ndarray] = field(default_factory=dict)
    data_type: str = ""
    originals: int = 0
    texts: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        return [text.removeprefix("ERR").strip() for text in self.texts if text.startswith("ERR")]

    @property
    def warnings(self) -> list[str]:
        return [text.removeprefix("WRN").strip() for text in self.texts if text.startswith("WRN")]

    def take(self, message: Message) -> None:
        if isinstance(message, Text):
            self.texts.append(message.text)
        elif isinstance(message, Image):
            meta = meta_of(message.meta)
            if "Quantitative" not in meta.get("DataRole", []) or meta.get("ImageTypeValue4") != [OWN_NAME]:
                self.originals += 1
                return
            slope, intercept = number_in(meta, "RescaleSlope"), number_in(meta, "RescaleIntercept")
            unit = (meta.get("Units") or [""])[0]
            if slope is None or intercept is None or unit not in ("ppm", "ppb"):
                raise InputError("the map that came back does not state its scale")
            first = int(message.header["slice"])
            for k, plane in enumerate(message.pixels[0]):
                self.planes_ppm[first + k] = values_ppm(plane, slope, intercept, unit)
            self.data_type = str(message.pixels.dtype)
            self.fields = {name: values[0] for name, values in meta.items() if name.startswith("Qsm") and values}

    def map_ppm(self, outgoing: Outgoing) -> np.ndarray:
        """The map on the grid of the scan that was sent. Raises ReconstructionError where it did not come whole."""
        expected = outgoing.acquisition.scan.grid.shape[2]
        if sorted(self.planes_ppm) != list(range(expected)):
            why = "; ".join(self.errors) or f"{len(self.planes_ppm)} of {expected} slices came back"
            raise ReconstructionError(f"no map came back: {why}")
        volume = np.stack([self.planes_ppm[k] for k in range(expected)])
        return np.ascontiguousarray(outgoing.layout.array(volume))


def receive(stream: Stream) -> Reply:
    """All of an answer up to its CLOSE. Raises ProtocolError."""
    reply = Reply()
    for message in Reader(stream):
        if not isinstance(message, Close):
            reply.take(message)
    return reply


def converse(stream: Stream, outgoing: Outgoing, parameters: Mapping[str, Any] | None = None) -> Reply:
    """Send a scan and receive the answer at the same time, as a scanner does. Raises QsmError."""
    failed: list[QsmError] = []

    def send() -> None:
        try:
            outgoing.send(stream, parameters)
        except QsmError as error:  # the server may have closed early; what it said is worth more
            failed.append(error)

    sender: Callable[[], None] = send
    thread = threading.Thread(target=sender, name="mrd-send", daemon=True)
    thread.start()
    try:
        return receive(stream)
    finally:
        thread.join(1.0 if failed else None)


def _xyz(values: Any) -> str:
    return "".join(f"<{name}>{value!r}</{name}>" for name, value in zip("xyz", map(_plain, values), strict=True))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, int | np.integer) else float(value)
