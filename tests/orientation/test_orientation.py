"""COSMOS, STI and GLTA against a tensor phantom whose fields are made in float64 from their definitions."""

import numpy as np
import pytest

from qsm_runtime.errors import InputError, ReconstructionError, ShapeError
from qsm_runtime.grid import Grid
from qsm_runtime.orientation.align import align
from qsm_runtime.orientation.cosmos import cosmos
from qsm_runtime.orientation.geometry import PAIRS
from qsm_runtime.orientation.glta import glta
from qsm_runtime.orientation.sti import decompose, sti

GRID = Grid((30, 28, 32), (1.0, 1.2, 1.5))
WIDE = (80, 80, 80)  # the fields are made on a wider array, so that periodic images are far away


def directions(count: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((count, 3))
    b[0] = (0, 0, 1)
    return b / np.linalg.norm(b, axis=1, keepdims=True)


def tensor_phantom() -> np.ndarray:
    """Smooth tensor (6, x, y, z) in float64, gone at the array's edge."""
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2 + 0.5) * v for n, v in zip(GRID.shape, GRID.voxel_mm, strict=True)),
                          indexing="ij")  # fmt: skip
    tensor = np.zeros((6, *GRID.shape))
    for scale, centre, parts in (
        (0.1, (0, 0, 0), (1.0, 0.2, 0.1, 0.8, -0.1, 0.5)),
        (-0.05, (3, -2, 4), (0.4, 0.0, 0.3, 0.9, 0.2, 1.0)),
    ):
        r2 = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        tensor += scale * np.array(parts)[:, None, None, None] * np.exp(-r2 / 12.0)
    return tensor


def matrices(tensor: np.ndarray) -> np.ndarray:
    full = np.empty((3, 3, *tensor.shape[1:]), tensor.dtype)
    for (a, b), part in zip(PAIRS, tensor, strict=True):
        full[a, b] = full[b, a] = part
    return full


def fields_of(tensor: np.ndarray, b0: np.ndarray) -> np.ndarray:
    """b.X.b/3 - (b.k)(k.X.b)/k^2 in float64."""
    k = np.meshgrid(*(np.fft.fftfreq(n, v) for n, v in zip(WIDE, GRID.voxel_mm, strict=True)), indexing="ij")
    k2 = sum(a * a for a in k)
    k2[0, 0, 0] = 1
    spectrum = np.fft.fftn(matrices(tensor), WIDE, axes=(2, 3, 4))
    out = []
    for b in b0:
        bxb = np.einsum("i,ij...,j->...", b, spectrum, b)
        kxb = np.einsum("i...,ij...,j->...", np.array(k), spectrum, b)
        f = bxb / 3 - sum(b[a] * k[a] for a in range(3)) * kxb / k2
        f[0, 0, 0] = 0
        out.append(np.fft.ifftn(f).real[: GRID.shape[0], : GRID.shape[1], : GRID.shape[2]])
    return np.array(out, np.float32)


def isotropic(chi: np.ndarray) -> np.ndarray:
    tensor = np.zeros((6, *chi.shape))
    tensor[0] = tensor[3] = tensor[5] = chi
    return tensor


def relative(x: np.ndarray, truth: np.ndarray) -> float:
    x, truth = x - x.mean((-3, -2, -1), keepdims=True), truth - truth.mean((-3, -2, -1), keepdims=True)
    return float(np.linalg.norm(x - truth) / np.linalg.norm(truth))


FULL = np.ones(GRID.shape, bool)


def test_cosmos_recovers_a_scalar_phantom():
    chi, b0 = tensor_phantom()[0], directions(5)
    assert relative(cosmos(fields_of(isotropic(chi), b0), FULL, GRID, b0_dirs=b0), chi) < 0.08


def test_sti_recovers_a_tensor_phantom():
    tensor, b0 = tensor_phantom(), directions(8)
    found = sti(fields_of(tensor, b0), FULL, GRID, b0_dirs=b0)
    assert relative(found, tensor) < 0.10


def test_sti_of_a_scalar_phantom_is_isotropic():
    chi, b0 = tensor_phantom()[0], directions(8)
    found = sti(fields_of(isotropic(chi), b0), FULL, GRID, b0_dirs=b0)
    assert relative(found, isotropic(chi)) < 0.13  # what is left is the cut at the edge of the array


def test_closed_form_equals_least_squares_at_each_k():
    """One random k-sample at a time: the six unknowns by numpy's lstsq."""
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0))
    b0, rng = directions(9), np.random.default_rng(0)
    fields = rng.standard_normal((9, 8, 8, 8)).astype(np.float32)
    from qsm_runtime.kernels.convolve import box_of

    mask = np.ones(grid.shape, bool)
    padded = box_of(mask, (2, 2, 2)).fft_shape
    k = np.meshgrid(*(np.fft.fftfreq(n) for n in padded), indexing="ij")
    spectra = np.fft.fftn(fields.astype(np.float64), padded, axes=(1, 2, 3)).reshape(9, -1)
    solution = np.zeros((6, spectra.shape[1]), complex)
    for n, kk in enumerate(np.stack([a.ravel() for a in k], axis=1)):
        if not kk.any():
            continue
        kk = kk / np.linalg.norm(kk)
        rows = []
        for b in b0:
            m = np.outer(b, b) / 3 - (b @ kk) * (np.outer(kk, b) + np.outer(b, kk)) / 2
            rows.append([m[a, c] * (1 if a == c else 2) for a, c in PAIRS])
        solution[:, n] = np.linalg.lstsq(np.array(rows), spectra[:, n], rcond=None)[0]
    expected = np.fft.ifftn(solution.reshape(6, *padded), axes=(1, 2, 3)).real[:, :8, :8, :8]
    np.testing.assert_allclose(sti(fields, mask, grid, b0_dirs=b0), expected, atol=2e-5 * np.abs(expected).max() * 10)


def test_glta_puts_a_scalar_in_the_bulk_and_explains_every_field():
    chi, b0 = tensor_phantom()[0], directions(8)
    fields = fields_of(isotropic(chi), b0)
    bulk, lorentz = glta(fields, FULL, GRID, b0_dirs=b0)
    assert relative(bulk, chi) < 0.10
    assert np.abs(lorentz).max() < 0.1 * np.abs(chi).max()


def test_glta_keeps_a_local_anisotropy():
    """A field that is b^T L b voxel by voxel has no dipole: half of it at most may be taken for bulk."""
    b0, shape = directions(8), tensor_phantom()[0]
    parts = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    lorentz_true = parts[:, None, None, None] * shape
    fields = np.einsum("ni,ij...,nj->n...", b0, matrices(lorentz_true), b0).astype(np.float32)
    _, lorentz = glta(fields, FULL, GRID, b0_dirs=b0)
    assert np.vdot(lorentz[1], lorentz_true[1]) / np.vdot(lorentz_true[1], lorentz_true[1]) > 0.6


@pytest.mark.parametrize(("method", "count"), [(cosmos, 4), (sti, 7)])
def test_linear(method, count):
    b0, rng = directions(count), np.random.default_rng(1)
    a, b = rng.standard_normal((2, count, *GRID.shape)).astype(np.float32)
    one, two, both = (method(f, FULL, GRID, b0_dirs=b0) for f in (a, b, a + 2 * b))
    np.testing.assert_allclose(both, one + 2 * two, atol=2e-5 * np.abs(both).max())


@pytest.mark.parametrize(("method", "count"), [(cosmos, 2), (sti, 5), (glta, 5)])
def test_too_few_orientations_are_refused(method, count):
    with pytest.raises(InputError, match="orientations"):
        method(np.zeros((count, *GRID.shape), np.float32), FULL, GRID, b0_dirs=directions(count))


@pytest.mark.parametrize(("method", "count"), [(cosmos, 4), (sti, 8), (glta, 8)])
def test_alike_orientations_are_refused(method, count):
    b0 = np.tile((0.0, 0.0, 1.0), (count, 1)) + 0.002 * directions(count)
    with pytest.raises(InputError, match="turn the head"):
        method(np.zeros((count, *GRID.shape), np.float32), FULL, GRID, b0_dirs=b0)


def test_wrong_input_is_refused():
    fields, b0 = np.zeros((4, *GRID.shape), np.float32), directions(4)
    with pytest.raises(ShapeError, match="b0_dirs"):
        cosmos(fields, FULL, GRID, b0_dirs=b0[:3])
    with pytest.raises(ReconstructionError, match="empty"):
        cosmos(fields, ~FULL, GRID, b0_dirs=b0)
    fields[1, 3, 3, 3] = np.nan
    with pytest.raises(InputError, match="finite"):
        cosmos(fields, FULL, GRID, b0_dirs=b0)


def test_decompose_finds_axis_and_anisotropy():
    axis = np.array([1.0, 2.0, 2.0]) / 3
    full = 0.02 * np.eye(3) + 0.03 * np.outer(axis, axis)
    tensor = np.array([full[a, b] for a, b in PAIRS], np.float32)[:, None, None, None] * np.ones((2, 2, 2), np.float32)
    mask = np.ones((2, 2, 2), bool)
    mask[0, 0, 0] = False
    mean, anisotropy, direction = decompose(tensor, mask)
    np.testing.assert_allclose(mean[mask], 0.03, atol=1e-6)
    np.testing.assert_allclose(anisotropy[mask], 0.03, atol=1e-6)
    np.testing.assert_allclose(direction[:, 1, 1, 1], axis, atol=1e-4)
    assert mean[0, 0, 0] == 0


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[c, -s], [s, c]]
    return matrix


def test_alignment_brings_a_turned_scan_back():
    shape = (24, 24, 24)
    centre = np.eye(4)
    centre[:3, 3] = -11.5
    index = np.stack(np.meshgrid(*(np.arange(n) - 11.5 for n in shape), indexing="ij"))

    def blob(points: np.ndarray) -> np.ndarray:
        offset = points - np.array([2.0, 3.0, -2.0])[:, None, None, None]
        return np.exp(-(offset**2).sum(0) / 30).astype(np.float32)

    head = rotation(30)  # the head in scan 2 is the first turned by this; world 2 -> common is its inverse
    turned = blob(np.einsum("ij,j...->i...", head[:3, :3].T, index))
    still, mask = blob(index), np.ones(shape, bool)
    still[0, 0, 0] = np.nan
    mask[0, 0, 0] = False
    found = align([still, turned], [mask, np.ones(shape, bool)], [centre, centre], [(0, 0, 1), (0, 0, 1)],
                  transforms=[np.eye(4), np.linalg.inv(head)])  # fmt: skip
    assert np.isfinite(found.local_ppm).all()
    np.testing.assert_allclose(found.local_ppm[1][found.mask], still[found.mask], atol=0.03)
    np.testing.assert_allclose(found.b0_dirs[1], head[:3, :3].T @ (0, 0, 1), atol=1e-6)
    written = align([still, turned], [mask, np.ones(shape, bool)], [centre, np.linalg.inv(head) @ centre],
                    [(0, 0, 1), (0, 0, 1)])  # fmt: skip
    np.testing.assert_allclose(written.local_ppm, found.local_ppm, atol=1e-6)


def test_alignment_refuses_what_is_not_rigid():
    field, mask = np.zeros((4, 4, 4), np.float32), np.ones((4, 4, 4), bool)
    with pytest.raises(InputError, match="rigid"):
        align([field] * 2, [mask] * 2, [np.eye(4)] * 2, np.eye(3)[:2], transforms=[np.eye(4), np.diag([2, 1, 1, 1.0])])
    far = np.eye(4)
    far[0, 3] = 100
    with pytest.raises(ReconstructionError, match="overlap"):
        align([field] * 2, [mask] * 2, [np.eye(4), far], np.eye(3)[:2])
