"""Scans from DICOM: folders or datasets in memory, classic and enhanced, Siemens, Philips and GE."""

from qsm_runtime.io.dicom.find import Arrivals, FoundDicom, assemble, find_dicom
from qsm_runtime.io.dicom.read import holds_dicom
from qsm_runtime.io.dicom.report import Contents, Series, inspect_folder

__all__ = ["Arrivals", "Contents", "FoundDicom", "Series", "assemble", "find_dicom", "holds_dicom", "inspect_folder"]
