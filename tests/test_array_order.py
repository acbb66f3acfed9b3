"""Arrays of any memory order give the same result: nibabel's are columns first, and no method may mistake them."""

import numpy as np
import pytest

from qsm_runtime import stages
from qsm_runtime.grid import Grid
from qsm_runtime.phantom import simulate_head

CASES = [
    (stage, name)
    for stage in ("mask", "offset", "unwrap", "field", "background", "inversion", "single_step", "reference")
    for name in stages.methods(stage)
    if name not in {"network", "none", "region", "csf"}
]


@pytest.fixture(scope="module")
def head():
    grid = Grid((40, 48, 36), (4.0, 4.0, 4.0))
    return simulate_head(grid, b0_tesla=3.0, echo_times_s=(0.005, 0.012, 0.019), peak_snr=200.0, seed=5, lesions=())


def arguments(stage, head):
    """Positional arguments and what the pipeline supplies, of one stage."""
    scan, truth = head.scan, head.truth
    local = np.where(truth.mask, truth.local_ppm, 0).astype(np.float32)
    total = np.where(truth.mask, truth.total_ppm, 0).astype(np.float32)
    known = np.where(truth.mask, np.float32(200), np.float32(0)) * scan.magnitude[0]
    given = {
        "mask": (scan.magnitude, scan.phase_rad, scan.grid),
        "offset": (scan.phase_rad, truth.mask, scan.grid),
        "unwrap": (scan.phase_rad, truth.mask, scan.grid),
        "field": (scan.phase_rad, scan.magnitude, scan.echo_times_s, scan.b0_tesla, truth.mask, scan.grid),
        "background": (total, truth.mask, scan.grid),
        "inversion": (local, truth.mask, scan.grid),
        "single_step": (total, truth.mask, scan.grid),
        "reference": (np.where(truth.mask, truth.chi_ppm, 0).astype(np.float32), truth.mask, scan.grid),
    }[stage]
    supplied = {
        "magnitude": scan.magnitude,
        "phase_rad": scan.phase_rad,
        "echo_times_s": scan.echo_times_s,
        "b0_tesla": scan.b0_tesla,
        "reliability": known,
    }
    return given, supplied


def turned(value):
    """The same array, columns first."""
    return np.asfortranarray(value) if isinstance(value, np.ndarray) and value.ndim > 1 else value


def arrays(result):
    return [a for a in (result if isinstance(result, tuple) else (result,)) if isinstance(a, np.ndarray)]


@pytest.mark.filterwarnings("ignore::qsm_runtime.errors.QsmWarning")  # its phases hold an offset that no stage took off
@pytest.mark.parametrize(("stage", "name"), CASES)
def test_columns_first_is_rows_first(head, stage, name):
    function = stages.method(stage, name)
    given, supplied = arguments(stage, head)
    extra = {k: v for k, v in supplied.items() if k in stages.supplied(function)}
    rows = arrays(function(*given, **extra))
    columns = arrays(function(*map(turned, given), **{k: turned(v) for k, v in extra.items()}))
    assert len(rows) == len(columns) > 0
    for one, other in zip(rows, columns, strict=True):
        one, other = one.astype(float), other.astype(float)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max() + 1e-12)
