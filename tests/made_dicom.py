"""Made DICOM: a field of values known at every place in the patient, cut into planes by vendor and standard.

Values are functions of the place (LPS, mm), so that wherever the reader puts a voxel its value can be checked
against the affine. GE objects follow the standard and the vendor's conformance statement, not a real sample.
"""

import shutil
import subprocess
from dataclasses import dataclass, field

import numpy as np
import pytest
from patience import PATIENCE_S
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSIC, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)


def oblique(degrees_x=20.0, degrees_z=15.0, base=AXIAL):
    """Direction cosines of `base` turned about the patient's x and z axes."""
    a, b = np.radians((degrees_x, degrees_z))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = about_z @ about_x @ np.reshape(base, (2, 3)).T
    return tuple(float(v) for v in turned.T.ravel())


def magnitude_at(place, echo):
    """Integers of 0..4000 that tell places apart."""
    x, y, z = place
    return np.rint(1200 + 9 * x + 5 * y + 3 * z - 40 * echo).clip(1, 4000)


def phase_at(place, echo):
    """Wrapped phase in rad, rising with the place."""
    x, y, z = place
    return np.angle(np.exp(1j * (echo + 1) * (0.11 * x + 0.07 * y - 0.05 * z + 0.2)))


@dataclass
class Protocol:
    """What a scanner is told. shape: columns, rows, slices; spacing_mm: between columns, rows, slices."""

    vendor: str = "siemens"
    orientation: tuple = AXIAL
    shape: tuple = (12, 10, 6)
    spacing_mm: tuple = (2.0, 1.5, 3.0)
    origin: tuple = (-11.0, -7.0, -8.0)
    echo_times_ms: tuple = (4.0, 9.0, 14.0)
    acquisition: str = "2D"
    frequency_mhz: float = 123.25
    number: int = 7
    study: str = field(default_factory=generate_uid)
    seed: int = 0

    def values(self, place, echo):
        """Magnitude (integers) and phase (rad) at places."""
        return magnitude_at(place, echo), phase_at(place, echo)

    def planes(self):
        """(slice index, position) and the places (3, rows, columns) of its voxels."""
        row, column = np.array(self.orientation[:3], float), np.array(self.orientation[3:], float)
        normal = np.cross(row, column)
        i, j = np.meshgrid(np.arange(self.shape[0]), np.arange(self.shape[1]))
        for k in range(self.shape[2]):
            position = np.array(self.origin) + normal * self.spacing_mm[2] * k
            place = (
                position[:, None, None]
                + row[:, None, None] * self.spacing_mm[0] * i
                + column[:, None, None] * self.spacing_mm[1] * j
            )
            yield k, position, place


def stored(protocol, part, place, echo, k):
    """Samples, rescale slope and intercept (None: no tags) of a plane as the vendor stores it."""
    magnitude, phase = protocol.values(place, echo)
    if protocol.vendor == "ge":
        turn = np.exp(1j * (-phase + np.pi * (k % 2)))  # sign and alternation as GE has them in 3-D
        values = {
            "magnitude": magnitude,
            "phase": np.rint(1000 * np.angle(turn)),
            "real": np.rint(magnitude * turn.real),
            "imaginary": np.rint(magnitude * turn.imag),
        }[part]
        return values.astype("<i2"), None, None
    if part == "magnitude":
        return magnitude.astype("<u2"), *((1.25, 0.0) if protocol.vendor == "philips" else (None, None))
    if protocol.vendor == "philips":
        return np.rint((phase * 1000 + 3142) / (6284 / 4095)).astype("<u2"), 6284 / 4095, -3142.0
    levels = np.rint((phase + np.pi) / (2 * np.pi) * 4096).clip(0, 4095).astype("<u2")
    return levels, *((2.0, -4096.0) if protocol.vendor == "siemens-xa" else (None, None))


MAKERS = {
    "siemens": "SIEMENS",
    "siemens-xa": "Siemens Healthineers",
    "philips": "Philips Medical Systems",
    "ge": "GE MEDICAL SYSTEMS",
}
WORDS = {"magnitude": "M", "phase": "P", "real": "R", "imaginary": "I"}
COMPONENTS = {"magnitude": "MAGNITUDE", "phase": "PHASE", "real": "REAL", "imaginary": "IMAGINARY"}


def _common(protocol, series_uid, number):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PatientName, ds.PatientID = "Doe^Jane", "SECRET-1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = protocol.study, series_uid, generate_uid()
    ds.FrameOfReferenceUID = protocol.study[:60] + ".1"
    ds.Modality, ds.Manufacturer = "MR", MAKERS[protocol.vendor]
    ds.SeriesNumber, ds.SeriesDescription, ds.ProtocolName = number, "gre qsm", "gre_qsm"
    ds.AcquisitionDate, ds.AcquisitionTime = "20240102", "101112.5"
    ds.MRAcquisitionType = protocol.acquisition
    ds.MagneticFieldStrength = "3"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Columns, ds.Rows = protocol.shape[:2]
    signed = protocol.vendor == "ge"
    ds.BitsAllocated, ds.BitsStored = 16, 16 if signed else 12
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(signed)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def classic(protocol, parts=("magnitude", "phase"), one_series=None):
    """Datasets of a scan, a plane each; Siemens puts each part into a series of its own."""
    together = protocol.vendor not in ("siemens", "siemens-xa") if one_series is None else one_series
    uids = {part: generate_uid() for part in parts}
    datasets = []
    for index, part in enumerate(parts):
        number = protocol.number if together else protocol.number + index
        uid = uids[parts[0]] if together else uids[part]
        for echo, time_ms in enumerate(protocol.echo_times_ms):
            for k, position, place in protocol.planes():
                ds = _common(protocol, uid, number)
                ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CLASSIC
                ds.InstanceNumber = len(datasets) + 1
                ds.ImageType = ["ORIGINAL", "PRIMARY", WORDS[part]]
                ds.ScanningSequence = "GR"
                ds.EchoTime, ds.EchoNumbers = f"{time_ms:g}", echo + 1
                ds.ImagingFrequency = f"{protocol.frequency_mhz}"
                ds.ImagedNucleus = "1H"
                ds.SliceThickness = ds.SpacingBetweenSlices = f"{protocol.spacing_mm[2]:g}"
                ds.ImagePositionPatient = [f"{v:.9g}" for v in position]
                ds.ImageOrientationPatient = [f"{v:.9g}" for v in protocol.orientation]
                ds.PixelSpacing = [f"{protocol.spacing_mm[1]:g}", f"{protocol.spacing_mm[0]:g}"]
                samples, slope, intercept = stored(protocol, part, place, echo, k)
                if slope is not None:
                    ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.12g}", f"{intercept:g}"
                if protocol.vendor == "ge":
                    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
                    block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
                    block.add_new(0x2F, "SS", ["magnitude", "phase", "real", "imaginary"].index(part))
                if protocol.vendor == "philips":
                    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
                    block.add_new(0x0E, "FL", 0.5 if part == "magnitude" else 650.0)
                    block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
                    block.add_new(0x14, "SL", len(protocol.echo_times_ms))
                    block.add_new(0x18, "SL", protocol.shape[2])
                ds.PixelData = samples.tobytes()
                datasets.append(ds)
    return datasets


def _item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return Sequence([ds])


def enhanced(protocol, parts=("magnitude", "phase")):
    """One multi-frame dataset, its frames shuffled; what differs between frames stands only there."""
    ds = _common(protocol, generate_uid(), protocol.number)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ENHANCED
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    ds.ResonantNucleus = "1H"
    shared = Dataset()
    shared.MRImagingModifierSequence = _item(TransmitterFrequency=protocol.frequency_mhz)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[f"{v:.9g}" for v in protocol.orientation])
    shared.PixelMeasuresSequence = _item(
        PixelSpacing=[f"{protocol.spacing_mm[1]:g}", f"{protocol.spacing_mm[0]:g}"],
        SliceThickness=f"{protocol.spacing_mm[2]:g}",
    )
    frames, samples = [], []
    for part in parts:
        for echo, time_ms in enumerate(protocol.echo_times_ms):
            for k, position, place in protocol.planes():
                own = Dataset()
                own.MREchoSequence = _item(EffectiveEchoTime=time_ms)
                own.MRImageFrameTypeSequence = _item(
                    FrameType=["ORIGINAL", "PRIMARY", "T1", WORDS[part]], ComplexImageComponent=COMPONENTS[part]
                )
                own.PlanePositionSequence = _item(ImagePositionPatient=[f"{v:.9g}" for v in position])
                plane, slope, intercept = stored(protocol, part, place, echo, k)
                if slope is not None:
                    own.PixelValueTransformationSequence = _item(
                        RescaleSlope=f"{slope:.12g}", RescaleIntercept=f"{intercept:g}", RescaleType="US"
                    )
                frames.append(own)
                samples.append(plane)
    order = np.random.default_rng(protocol.seed).permutation(len(frames))
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence([frames[i] for i in order])
    ds.NumberOfFrames = len(frames)
    ds.PixelData = np.stack([samples[i] for i in order]).tobytes()
    return [ds]


def save(datasets, folder, seed=0, name=lambda i: f"{i:05d}.dcm"):
    """Write datasets under shuffled names."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(datasets))
    for i, ds in zip(order, datasets, strict=True):
        path = folder / name(int(i))
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
    return folder


def check(acquisition, protocol, phase_tolerance_rad=0.003, magnitude_scale=1.0):
    """Every voxel of an acquisition holds the value of its place."""
    scan = acquisition.scan
    index = np.indices(scan.grid.shape).reshape(3, -1)
    ras = acquisition.affine[:3, :3] @ index + acquisition.affine[:3, 3:]
    place = np.diag([-1, -1, 1]) @ ras
    assert scan.echo_times_s == pytest.approx([t / 1000 for t in protocol.echo_times_ms])
    for echo in range(scan.n_echoes):
        wanted = magnitude_at(place, echo) * magnitude_scale
        assert np.abs(scan.magnitude[echo].ravel() - wanted).max() <= 1.01 * magnitude_scale
        turn = np.exp(1j * (scan.phase_rad[echo].ravel() - phase_at(place, echo)))
        assert np.abs(np.angle(turn)).max() < phase_tolerance_rad
    assert sorted(scan.grid.shape) == sorted(protocol.shape)


def dciodvfy(path):
    """Lines of dicom3tools' validator about a file; the test is skipped where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (dicom3tools)")
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    return (done.stderr + done.stdout).splitlines()
