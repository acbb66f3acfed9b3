"""Phase offset at echo time zero: (phase_rad, mask, grid, *, ...) -> phase_rad, wrapped, one method a file."""

from qsm_runtime.offset.mcpc3ds import mcpc3ds
from qsm_runtime.offset.none import none

METHODS = {"mcpc3ds": mcpc3ds, "none": none}
