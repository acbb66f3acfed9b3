"""The whole chain on a simulated head: truth is found again, events and records are kept, refusals are clear."""

import numpy as np
import pytest

from qsm_runtime import Event, Grid, Scan, load_recipe, reconstruct
from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.metrics import score
from qsm_runtime.phantom import simulate_head


@pytest.fixture(scope="module")
def head():
    return simulate_head(Grid((60, 72, 58), (3.0, 3.0, 3.0), (0.1, 0.05, 0.99)), seed=4)


@pytest.fixture(scope="module")
def results(head):
    return {name: reconstruct(head.scan, load_recipe(name), extras=("r2star",)) for name in ("fast", "default")}


@pytest.mark.parametrize(("name", "correlation"), [("fast", 0.7), ("default", 0.8)])
def test_truth_is_found_again(results, head, name, correlation) -> None:
    result = results[name]
    found = score(result.chi_ppm, head.truth.chi_ppm, head.truth.mask, valid=result.mask, labels=head.truth.labels)
    assert found.correlation > correlation
    assert 0.75 < found.deep_grey_slope < 1.3
    overlap = 2 * np.count_nonzero(result.brain_mask & head.truth.mask)
    assert overlap / (np.count_nonzero(result.brain_mask) + np.count_nonzero(head.truth.mask)) > 0.9


def test_maps_keep_their_promises(results, head) -> None:
    for result in results.values():
        for name in ("chi_ppm", "total_ppm", "reliability", "r2star_per_s"):
            volume = getattr(result, name)
            assert volume.shape == head.scan.grid.shape, name
            assert volume.dtype == np.float32, name
            assert np.isfinite(volume).all(), name
            assert not volume[~result.brain_mask].any(), name
        assert not result.chi_ppm[~result.mask].any()
        assert abs(result.chi_ppm[result.mask].mean()) < 1e-3  # referenced to the whole mask
        assert result.record["reference"]["voxels"] == np.count_nonzero(result.mask)
        assert result.record["recipe"]["name"] in ("fast", "default")
        assert set(result.record["seconds"]) >= {"mask", "offset", "unwrap", "field", "reference", "r2star"}


def test_same_scan_same_bits_and_inputs_untouched(head, results) -> None:
    magnitude, phase = head.scan.magnitude.copy(), head.scan.phase_rad.copy()
    again = reconstruct(head.scan, load_recipe("fast"))
    assert np.array_equal(again.chi_ppm, results["fast"].chi_ppm)
    assert np.array_equal(magnitude, head.scan.magnitude)
    assert np.array_equal(phase, head.scan.phase_rad)


def test_events_open_and_close_every_stage(head) -> None:
    events: list[Event] = []
    reconstruct(head.scan, load_recipe("fast"), mask=head.truth.mask, progress=events.append)
    seen = [e.stage for e in events if e.fraction == 0.0]
    assert seen[0] == "offset"
    assert seen[-1] == "reference"
    assert [e.stage for e in events if e.fraction == 1.0 and e.stage in seen][-1] == "reference"
    assert all(e.seconds >= 0 and 0 <= e.fraction <= 1 for e in events)


def test_user_mask_and_region(head) -> None:
    recipe = load_recipe("fast").with_method("reference", "region")
    region = head.truth.labels == 10
    result = reconstruct(head.scan, recipe, mask=head.truth.mask, region=region)
    assert result.record["recipe"]["mask"] == {"method": "user"}
    used = region & result.mask
    assert abs(result.chi_ppm[used].mean()) < 2e-3
    with pytest.raises(ShapeError, match="mask"):
        reconstruct(head.scan, recipe, mask=head.truth.mask[1:])
    with pytest.raises(ReconstructionError, match="mask is empty"):
        reconstruct(head.scan, recipe, mask=np.zeros(head.scan.grid.shape, bool))
    with pytest.raises(UsageError, match="r2star"):
        reconstruct(head.scan, recipe, extras=("r2sar",))


def test_single_echo_and_not_finite_voxels_are_said(head) -> None:
    phase = head.scan.phase_rad[:1].copy()
    phase[0, 30, 36, 29] = np.nan
    scan = Scan(head.scan.magnitude[:1], phase, head.scan.echo_times_s[:1], 3.0, head.scan.grid)
    result = reconstruct(scan, load_recipe("fast"), mask=head.truth.mask)
    assert any("not finite" in w for w in result.warnings)
    assert any("single echo" in w for w in result.warnings)
    assert not result.brain_mask[30, 36, 29]
    assert np.isfinite(result.chi_ppm).all()


def test_doubled_field_strength_gives_the_same_map() -> None:
    """The same head at twice B0 and half the echo times carries the same phase: chi in ppm must not change."""
    grid = Grid((40, 48, 40), (4.0, 4.0, 4.0))
    head = simulate_head(grid, seed=1)
    scan = head.scan
    other = Scan(scan.magnitude, scan.phase_rad, tuple(t / 2 for t in scan.echo_times_s), 6.0, grid)
    a = reconstruct(scan, load_recipe("fast"), mask=head.truth.mask)
    b = reconstruct(other, load_recipe("fast"), mask=head.truth.mask)
    np.testing.assert_allclose(a.chi_ppm, b.chi_ppm, atol=2e-3)
