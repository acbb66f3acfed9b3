"""A small scan on disk, written with nibabel alone, with its truth."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SHAPE = (12, 10, 8)
ECHO_TIMES_S = (0.004, 0.010, 0.017)
AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.9, 0, -30], [0, 0, 1.2, 20], [0, 0, 0, 1.0]])


@dataclass
class ScanFiles:
    """Writes images and sidecars into a folder; phase_rad and magnitude (echo, x, y, z) are the truth."""

    folder: Path
    phase_rad: np.ndarray
    magnitude: np.ndarray
    echo_times_s: tuple[float, ...] = ECHO_TIMES_S
    affine: np.ndarray = field(default_factory=lambda: AFFINE.copy())

    def image(self, name: str, data: np.ndarray, meta: dict[str, Any] | None = None, **header: Any) -> Path:
        """Write `data` (x, y, z) or (x, y, z, n) as stored, without nibabel's own scaling."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nifti = nib.Nifti1Image(data, header.pop("affine", self.affine), dtype=data.dtype)
        nifti.update_header()
        fields = nifti.header.as_byteswapped("<" if data.dtype.newbyteorder("=") == data.dtype else ">")
        fields.set_xyzt_units("mm", "sec")
        fields["scl_slope"], fields["scl_inter"] = header.pop("slope", 1), header.pop("intercept", 0)
        fields["magic"], fields["vox_offset"] = b"n+1", 352
        for key, value in header.items():
            fields[key] = value
        content = fields.binaryblock + bytes(4) + data.tobytes(order="F")
        path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
        if meta is not None:
            path.with_name(name.split("/")[-1].split(".nii")[0] + ".json").write_text(json.dumps(meta))
        return path

    def siemens(self, echo: int) -> np.ndarray:
        """Phase of one echo as 0..4095."""
        return np.mod(np.rint((self.phase_rad[echo] + np.pi) / (2 * np.pi) * 4096), 4096).astype(np.int16)

    def per_echo(self, pattern: str = "sub-1/anat/sub-1_echo-{e}_part-{part}_MEGRE.nii.gz", **meta: Any) -> dict:
        """A file per echo and part; returns {"mag": [...], "phase": [...]}."""
        meta = {"MagneticFieldStrength": 3} | meta
        paths: dict[str, list[Path]] = {"mag": [], "phase": []}
        for e, time_s in enumerate(self.echo_times_s):
            own = meta | {"EchoTime": time_s}
            for part, data in (("mag", self.magnitude[e].astype(np.int16)), ("phase", self.siemens(e))):
                paths[part].append(self.image(pattern.format(e=e + 1, part=part), data, own))
        return paths


@pytest.fixture
def scan_files(tmp_path: Path) -> ScanFiles:
    rng = np.random.default_rng(7)
    phase_rad = rng.uniform(-np.pi, np.pi, (len(ECHO_TIMES_S), *SHAPE))
    magnitude = rng.integers(1, 2000, (len(ECHO_TIMES_S), *SHAPE)).astype(float)
    return ScanFiles(tmp_path / "in", phase_rad, magnitude)


@pytest.fixture
def phase_error() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest distance of two phases around the circle, in rad."""
    return lambda a, b: float(np.abs(np.angle(np.exp(1j * (np.asarray(a, float) - np.asarray(b, float))))).max())
