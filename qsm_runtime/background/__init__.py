"""Background removal: `(total_ppm, mask, grid, *, ...) -> (local_ppm, valid_mask)`, one method a file."""

from collections.abc import Callable

from qsm_runtime.background.harperella import harperella
from qsm_runtime.background.ismv import ismv
from qsm_runtime.background.lbv import lbv
from qsm_runtime.background.network import network
from qsm_runtime.background.pdf import pdf
from qsm_runtime.background.resharp import resharp
from qsm_runtime.background.sharp import sharp
from qsm_runtime.background.vsharp import vsharp

METHODS: dict[str, Callable] = {
    "sharp": sharp,
    "vsharp": vsharp,
    "resharp": resharp,
    "ismv": ismv,
    "lbv": lbv,
    "pdf": pdf,
    "harperella": harperella,
    "network": network,
}
