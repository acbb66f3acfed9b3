"""The parts of a card (networks/card.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qsm_runtime.networks.card_words import Dtype, Meaning, Precision, Provider, Unit

Size3 = tuple[int, int, int]
Range = tuple[float, float]


@dataclass(frozen=True)
class Licence:
    """spdx: an SPDX identifier, or "NOASSERTION" where none is stated."""

    spdx: str
    redistributable: bool


@dataclass(frozen=True)
class File:
    """The .onnx beside the card. sha256: 64 lower-case hex digits. source: the framework that it came from."""

    name: str
    sha256: str
    opset: int
    source: str


@dataclass(frozen=True)
class Channel:
    """One channel of a port whose meaning is "stack"."""

    meaning: Meaning
    unit: Unit
    sign: Literal[1, -1]


@dataclass(frozen=True)
class Port:
    """One tensor of the graph. sign: 1 where paramagnetic is positive and phase grows with the field (and for what has
    no sign), -1 where the network has it the other way. channels: of a "stack" only, in order."""

    tensor: str
    meaning: Meaning
    unit: Unit
    sign: Literal[1, -1]
    axes: str
    dtype: Dtype
    channels: tuple[Channel, ...] = ()

    @property
    def parts(self) -> tuple[Channel, ...]:
        """Its channels; those of a port that is no stack are one."""
        return self.channels or (Channel(self.meaning, self.unit, self.sign),)


@dataclass(frozen=True)
class Normalisation:
    """Of one tensor. In: (x - mean) / std, out: y std + mean; one number, or one a channel.

    quantile  first clipped to the percentiles low_pct and high_pct and mapped so that they become 0 and 1
    zscore    first clipped to the percentiles, then minus its own mean over its own standard deviation
    atanh     outputs: atanh(y) first
    within    where percentiles, mean and deviation are taken
    """

    kind: Literal["none", "affine", "quantile", "zscore", "atanh"]
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    low_pct: float = 0.0
    high_pct: float = 100.0
    within: Literal["volume", "mask"] = "volume"


@dataclass(frozen=True)
class Normalisations:
    """By tensor.

    mask_before  the normalised input is multiplied by the mask
    mask_after   so is the graph's output before it is restored (true: outside the mask the map is the mean), or
                 once it is ("restored": it is zero)

    residual  on restored values: add: output + input; subtract: input - output (a network that gives what to remove)
    """

    inputs: Mapping[str, Normalisation]
    outputs: Mapping[str, Normalisation]
    mask_before: bool
    mask_after: bool | Literal["restored"]
    residual: Literal["none", "add", "subtract"]


@dataclass(frozen=True)
class Geometry:
    """voxel_mm: of its training, null for any. tolerance: relative difference of an axis that needs no resampling."""

    voxel_mm: tuple[float, float, float] | None
    tolerance: float
    resample: Literal["fourier", "linear", "none"]
    b0: Literal["any", "require_z", "rotate_to_z", "input_vector", "in_dipole"]


@dataclass(frozen=True)
class Dipole:
    """dc: D(0). order: fft has DC first, centred in the middle, half is the last axis of a real transform."""

    dc: float
    order: Literal["fft", "centred", "half"]


@dataclass(frozen=True)
class Size:
    """In voxels of an axis. fixed: the only size it takes, x y z."""

    multiple: int
    pad_side: Literal["end", "both"]
    pad_mode: Literal["constant", "edge", "reflect"]
    min: int
    max: int | None
    fixed: Size3 | None


@dataclass(frozen=True)
class Patching:
    """patch: input size (null: chosen by memory). crop: voxels cut off each side of a patch's output.

    overlap: voxels that neighbouring patches share after the crop, joined by `blend`.
    """

    allowed: bool
    patch: Size3 | None
    crop: Size3
    overlap: Size3
    blend: Literal["crop", "linear", "cosine"]


@dataclass(frozen=True)
class Mask:
    """needed: cannot do without. erode_mm: beforehand. apply: to the result. reference: what its chi is relative to."""

    needed: bool
    erode_mm: float
    apply: bool
    reference: Literal["none", "mask_mean", "csf"]


@dataclass(frozen=True)
class Echoes:
    """single: one map for all echoes. Else one run an echo, joined by a plain mean or weights magnitude^2 TE^2."""

    combine: Literal["single", "mean", "magnitude_te2"]


@dataclass(frozen=True)
class Domain:
    """What it was trained on, each from-to; null: not known. angle_deg: of B0 to the z axis."""

    b0_tesla: Range | None
    chi_ppm: Range | None
    field_ppm: Range | None
    voxel_mm: Range | None
    angle_deg: Range | None
    snr: Range | None
    anatomy: str


@dataclass(frozen=True)
class Needs:
    """bytes_per_voxel: peak of a run. providers: those it was verified on. precision: the lowest it holds at."""

    bytes_per_voxel: float
    providers: tuple[Provider, ...]
    denormals_to_zero: bool
    precision: Precision


@dataclass(frozen=True)
class Physics:
    """Dipole steps on the host between passes of the network; the field's network ports are then chi -> chi.

    step       gradient step, one for all passes or one a pass
    weight     of the data term (half_quadratic), of the prior (schatten_cg), or mu, the ridge (learned_proximal,
               joint_proximal)
    power      p of the Schatten prior
    cg_steps   of an inner solve; of the total variation that learned_proximal and joint_proximal start from
    start      first chi: zero, or step times the adjoint of the dipole on the field
    """

    scheme: Literal[
        "none",
        "proximal_gradient",
        "half_quadratic",
        "schatten_cg",
        "learned_gradient",
        "learned_proximal",
        "joint_proximal",
    ]
    passes: int = 1
    step: float | tuple[float, ...] | None = None
    weight: float | tuple[float, ...] | None = None
    power: float | None = None
    cg_steps: int | None = None
    start: Literal["zero", "adjoint"] = "adjoint"


@dataclass(frozen=True)
class SelfTest:
    """Inputs and outputs of the graph in an .npz beside the card, as input.TENSOR and output.TENSOR.

    tolerance: largest error over the largest value. seed: the inputs are made by verify.test_inputs, not stored.
    """

    file: str
    shape: Size3
    tolerance: float
    seed: int | None = None
