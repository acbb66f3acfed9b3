"""Reading scans and writing maps; the only part that knows file formats."""

from qsm_runtime.io.acquisition import Acquisition, Placement
from qsm_runtime.io.atomic import write_files
from qsm_runtime.io.bids import Found, find_acquisitions
from qsm_runtime.io.maps import Map, read_map, read_mask, write_map
from qsm_runtime.io.nifti import read_nifti
from qsm_runtime.io.output import KINDS, check_outputs, map_path, sidecar_path, write_maps

__all__ = [
    "KINDS",
    "Acquisition",
    "Found",
    "Map",
    "Placement",
    "check_outputs",
    "find_acquisitions",
    "map_path",
    "read_map",
    "read_mask",
    "read_nifti",
    "sidecar_path",
    "write_files",
    "write_map",
    "write_maps",
]
