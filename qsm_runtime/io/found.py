"""A scan found by name, before it is read."""

from dataclasses import dataclass, field
from pathlib import Path

from qsm_runtime.errors import InputError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.nifti import read_nifti


@dataclass(frozen=True)
class Found:
    """One scan of a folder: its files by part, in order of the echo entity, and what it lacks to be read."""

    name: str
    entities: dict[str, str]
    files: dict[str, tuple[Path, ...]]
    missing: tuple[str, ...] = field(default=())

    def read(
        self,
        *,
        echo_times_s: tuple[float, ...] | None = None,
        b0_tesla: float | None = None,
        imaging_frequency_mhz: float | None = None,
        phase_scale: str = "auto",
        phase_sign: str = "auto",
        b0_dir: tuple[float, float, float] | None = None,
        mask: Path | str | None = None,
        threads: int | None = None,
    ) -> Acquisition:
        """The scan as an Acquisition; options as in read_nifti. Raises InputError where files are missing."""
        if self.missing:
            raise InputError(f"{self.name} is incomplete: {'; '.join(self.missing)}")
        return read_nifti(
            self.files.get("mag", ()),
            self.files.get("phase", ()),
            real=self.files.get("real", ()),
            imaginary=self.files.get("imag", ()),
            echo_times_s=echo_times_s,
            b0_tesla=b0_tesla,
            imaging_frequency_mhz=imaging_frequency_mhz,
            phase_scale=phase_scale,
            phase_sign=phase_sign,
            b0_dir=b0_dir,
            mask=mask,
            name=self.name,
            threads=threads,
        )
