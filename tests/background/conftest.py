"""A small object with sources inside and outside, whose fields are known in closed form."""

from dataclasses import dataclass

import numpy as np
import pytest

from qsm_runtime.grid import Grid


@dataclass
class Case:
    """Fields in ppm on `grid`: external (harmonic in the mask), local (sources deep inside it)."""

    grid: Grid
    mask: np.ndarray
    external_ppm: np.ndarray
    local_ppm: np.ndarray

    @property
    def total_ppm(self) -> np.ndarray:
        return np.where(self.mask, self.external_ppm + self.local_ppm, 0).astype(np.float32)


def sphere_field(r_mm: np.ndarray, centre_mm, radius_mm: float, chi_ppm: float, b0_dir) -> np.ndarray:
    """Field of a sphere, the sphere of Lorentz taken out: chi/3 (a/d)^3 (3 cos^2 - 1) outside, 0 inside."""
    d = r_mm - np.asarray(centre_mm)
    distance = np.linalg.norm(d, axis=-1)
    cosine = (d @ np.asarray(b0_dir)) / np.maximum(distance, 1e-9)
    field = chi_ppm / 3 * (radius_mm / np.maximum(distance, 1e-9)) ** 3 * (3 * cosine**2 - 1)
    return np.where(distance < radius_mm, 0.0, field)


def make_case(shape=(48, 44, 46), voxel_mm=(1.0, 1.0, 1.0), b0_dir=(0.0, 0.0, 1.0)) -> Case:
    grid = Grid(shape, voxel_mm, b0_dir)
    extent = np.array(shape) * voxel_mm
    r = np.stack(np.meshgrid(*(np.arange(n) * v for n, v in zip(shape, voxel_mm, strict=True)), indexing="ij"), -1)
    centred = (r - extent / 2 + np.array(voxel_mm) / 2) / (extent / 2)
    wobble = 0.8 + 0.04 * np.sin(4 * np.arctan2(centred[..., 1], centred[..., 0])) + 0.03 * centred[..., 2]
    mask = np.linalg.norm(centred, axis=-1) < wobble
    b0 = np.array(grid.b0_dir)
    external = (
        sphere_field(r, extent * [0.5, 1.25, 0.5], 8.0, 9.0, b0)
        + sphere_field(r, extent * [-0.2, 0.3, 0.7], 6.0, -5.0, b0)
        + 0.02 * centred[..., 0]
        + 0.03 * (centred[..., 1] ** 2 * extent[1] ** 2 - centred[..., 2] ** 2 * extent[2] ** 2) / extent.max() ** 2
        + 0.4
    )
    local = sphere_field(r, extent * [0.45, 0.55, 0.5], 3.2, 0.2, b0) + sphere_field(
        r, extent * [0.58, 0.42, 0.52], 2.6, -0.15, b0
    )
    return Case(grid, mask, external, local)


@pytest.fixture(scope="session")
def case() -> Case:
    return make_case()


@pytest.fixture(scope="session", params=["anisotropic", "oblique, odd"])
def other_case(request) -> Case:
    if request.param == "anisotropic":
        return make_case((48, 44, 24), (1.0, 1.0, 2.0))
    return make_case((45, 47, 43), (1.0, 1.0, 1.0), (0.3, -0.5, 0.81))
