"""Patches put together give what the whole gives, wherever they see enough."""

import numpy as np
import pytest
from scipy import ndimage

from qsm_runtime.errors import ReconstructionError, UsageError
from qsm_runtime.networks.patches import fits, in_patches, patch_sizes, tile


@pytest.mark.parametrize("blend", ["crop", "linear", "cosine"])
@pytest.mark.parametrize(
    ("n", "size", "overlap", "crop"), [(50, 16, 4, 0), (50, 16, 0, 3), (33, 32, 6, 2), (64, 16, 0, 0)]
)
def test_weights_sum_to_one(blend: str, n: int, size: int, overlap: int, crop: int) -> None:
    axis = tile(n, size, overlap, blend, crop)
    total = np.zeros(n)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert 0 <= start <= n - size
        total[start : start + size] += weight
        if start > 0:
            assert not weight[:crop].any()
        if start < n - size:
            assert not weight[size - crop :].any()
    assert np.allclose(total, 1, atol=1e-6)
    for before, after in zip(axis.starts, axis.starts[1:], strict=False):
        assert before + size - after >= overlap + 2 * crop


def smooth(x: np.ndarray) -> np.ndarray:
    """Two 3^3 means, zeros beyond: a voxel sees 2 around it."""
    for _ in range(2):
        x = np.stack([ndimage.uniform_filter(one, 3, mode="constant") for one in x])
    return x


@pytest.mark.parametrize("blend", ["crop", "linear", "cosine"])
def test_patches_are_the_whole(blend: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 29, 31, 40)).astype(np.float32)
    found = in_patches(
        lambda parts: smooth(parts[0]) * parts[1], [x, np.float32(2)], (29, 31, 40), (16, 31, 14), (3, 3, 3),
        blend=blend, crop=(2, 2, 2),
    )  # fmt: skip
    assert np.abs(found - 2 * smooth(x)).max() < 1e-5


def test_a_network_that_gives_its_middle() -> None:
    x = np.random.default_rng(1).normal(size=(1, 20, 22, 24)).astype(np.float32)
    grown = np.pad(x, [(0, 0)] + [(2, 2)] * 3)
    found = in_patches(
        lambda parts: smooth(parts[0])[:, 2:-2, 2:-2, 2:-2],
        [grown],
        (20, 22, 24),
        (10, 8, 24),
        (0, 0, 0),
        halo=(2, 2, 2),
    )
    assert np.abs(found - smooth(grown)[:, 2:-2, 2:-2, 2:-2]).max() < 1e-6
    with pytest.raises(ReconstructionError, match=r"patching\.crop"):
        in_patches(lambda parts: parts[0][:, :4], [x], (20, 22, 24), (10, 22, 24), (0, 0, 0))


def test_patches_fit_the_memory() -> None:
    shape = (160, 200, 180)
    patch = patch_sizes(shape, 1000, 500, 8, (8, 8, 8), (16, 16, 16))
    assert fits(patch, 1000, 500)
    assert not fits(shape, 1000, 500)
    assert np.prod(patch) * 1000 > 0.5 * 500 * 2**20
    with pytest.raises(ReconstructionError, match="smallest patch"):
        patch_sizes(shape, 1000, 1, 8, (8, 8, 8), (16, 16, 16))
    with pytest.raises(UsageError, match="overlap"):
        tile(50, 16, 16, "linear")
