"""The FFT layer against numpy in float64, its plan cache, and the wisdom it keeps on disk."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from patience import PATIENCE_S

from qsm_runtime.kernels import fft
from qsm_runtime.kernels.threads import get_threads, set_threads

SHAPES = [(8, 10, 12), (7, 9, 15), (16, 1, 6), (5, 5, 5), (1, 1, 2)]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """An empty cache folder and a planner that has not read any wisdom."""
    monkeypatch.setenv("QSM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fft, "_wisdom_loaded", False)
    fft.release()
    yield tmp_path
    fft.release()
    monkeypatch.undo()
    fft.load_wisdom()  # the host's own, for the tests that follow


def is_smooth(n: int) -> bool:
    for p in (2, 3, 5, 7):
        while n % p == 0:
            n //= p
    return n == 1


def test_smooth_size_is_the_smallest_one():
    for n in range(1, 400):
        m = fft.smooth_size(n)
        assert m >= n
        assert is_smooth(m)
        assert not any(is_smooth(k) for k in range(n, m))
        even = fft.smooth_size(n, even=True)
        assert even % 2 == 0
        assert is_smooth(even)
        assert not any(is_smooth(k) for k in range(n + n % 2, even, 2))


def test_padded_shape_holds_the_margin_and_ends_even():
    assert fft.padded_shape((11, 13, 15), (0, 0, 0)) == (12, 14, 16)
    assert fft.padded_shape((10, 10, 15)) == (10, 10, 16)
    assert fft.padded_shape((9, 9, 9), (4, 4, 4)) == (14, 14, 14)


@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_agree_with_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape)
    p = fft.plan(shape)
    p.real[:] = x
    spectrum = p.forward()
    expected = np.fft.rfftn(x)
    assert spectrum.shape == expected.shape == p.half_shape
    np.testing.assert_allclose(spectrum, expected, atol=2e-6 * np.abs(expected).max())
    back = p.inverse() * p.scale
    np.testing.assert_allclose(back, x, atol=3e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_keeps_its_input(shape):
    p = fft.plan(shape)
    x = p.new_real()
    x[:] = np.random.default_rng(1).normal(size=shape)
    kept = x.copy()
    out = p.new_spectrum()
    assert p.forward(x, out) is out
    np.testing.assert_array_equal(x, kept)


def test_same_input_gives_the_same_bits():
    p = fft.plan((12, 14, 16))
    p.real[:] = np.random.default_rng(2).normal(size=p.shape)
    first = p.forward().copy()
    np.testing.assert_array_equal(p.forward(), first)


def test_plans_are_cached_and_bounded():
    fft.release()
    shapes = [(4, 4, n) for n in range(4, 4 + 2 * (fft.MAX_PLANS + 2), 2)]
    plans = [fft.plan(s) for s in shapes]
    assert fft.plan(shapes[-1]) is plans[-1]
    assert len(fft._plans.cache) == fft.MAX_PLANS
    assert fft.plan(shapes[0]) is not plans[0]  # the oldest had to go


def test_recently_used_plans_stay():
    fft.release()
    kept = fft.plan((4, 4, 4))
    for n in range(6, 6 + 4 * fft.MAX_PLANS, 2):
        fft.plan((4, 4, n))
        assert fft.plan((4, 4, 4)) is kept


def test_numpy_integers_and_lists_name_the_same_plan():
    assert fft.plan(tuple(np.array((6, 6, 6)))) is fft.plan((6, 6, 6))


def test_threads_of_control_share_no_work_arrays():
    mine, theirs = fft.plan((6, 6, 8)), []
    worker = threading.Thread(target=lambda: theirs.append(fft.plan((6, 6, 8))))
    worker.start()
    worker.join()
    assert theirs[0] is not mine
    assert not np.shares_memory(theirs[0].real, mine.real)


def test_a_plan_belongs_to_a_thread_count():
    if get_threads() < 2:
        pytest.skip("one thread only")
    before = get_threads()
    try:
        set_threads(1)
        one = fft.plan((6, 8, 8))
        set_threads(2)
        two = fft.plan((6, 8, 8))
        assert (one.threads, two.threads) == (1, 2)
    finally:
        set_threads(before)


def test_release_drops_plans():
    first = fft.plan((6, 6, 10))
    fft.release()
    assert fft.plan((6, 6, 10)) is not first


def test_wisdom_is_kept_and_read(scratch):
    import pyfftw

    pyfftw.forget_wisdom()
    fft.plan((10, 12, 14))
    path = fft.wisdom_path()
    assert path.parent == scratch
    assert path.stat().st_size > 0
    assert sorted(scratch.iterdir()) == [path.with_suffix(".lock"), path]  # no temporary file is left
    pyfftw.forget_wisdom()
    fft.release()
    assert fft.load_wisdom()
    written = path.stat().st_mtime_ns
    fft.plan((10, 12, 14))  # planned from wisdom: nothing new to keep
    assert path.stat().st_mtime_ns == written


def test_planning_keeps_wisdom_that_another_process_added(scratch):
    import pyfftw

    pyfftw.forget_wisdom()
    fft.plan((10, 12, 18))
    other = fft.wisdom_path().read_bytes()
    pyfftw.forget_wisdom()
    fft.release()
    fft.plan((10, 12, 20))
    pyfftw.forget_wisdom()
    fft.release()
    fft.load_wisdom()
    written = fft.wisdom_path().read_bytes()
    assert len(written) > len(other)
    stamp = fft.wisdom_path().stat().st_mtime_ns
    fft.plan((10, 12, 18))
    fft.plan((10, 12, 20))
    assert fft.wisdom_path().stat().st_mtime_ns == stamp


def test_processes_that_plan_one_shape_at_once_take_one_plan(tmp_path):
    script = (
        "import sys, pyfftw; from qsm_runtime.kernels import fft; fft.plan((60, 63, 64)); "
        "print(fft.planning_seconds > 0, hash(tuple(sorted(pyfftw.export_wisdom()[1].split()))))"
    )
    environment = {**os.environ, "QSM_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=PATIENCE_S)[0].split() for process in running]
    assert sorted(planned for planned, _ in said) == ["False", "False", "True"]
    assert len({wisdom for _, wisdom in said}) == 1


@pytest.mark.parametrize("text", [b"", b"no wisdom", b"\xff\x00" * 100])
def test_bad_wisdom_is_no_error(scratch, text):
    fft.wisdom_path().write_bytes(text)
    p = fft.plan((4, 6, 10))
    p.real[:] = 1
    assert p.forward()[0, 0, 0] == pytest.approx(240)


def test_a_cache_that_cannot_be_written_is_no_error(scratch, monkeypatch):
    blocked = scratch / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("QSM_CACHE_DIR", str(blocked))
    assert not fft.load_wisdom()
    assert not fft.save_wisdom()
    fft.plan((4, 6, 14)).forward()
