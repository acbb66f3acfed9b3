"""The words of a card: what a tensor can mean, in which unit, and what each task takes and gives."""

from collections.abc import Mapping
from typing import Literal

Task = Literal["mask", "unwrap", "background", "inversion", "single_step", "phase_to_chi"]
Unit = Literal["ppm", "ppb", "Hz", "rad/s", "rad", "s", "ms", "T", "mm", "1/s", "1/ppm", "1"]
Meaning = Literal[
    "local_field", "total_field", "background_field", "wrapped_phase", "unwrapped_phase", "wrap_count", "magnitude",
    "mask", "probability", "chi", "chi_imaginary", "chi_off_axis_field", "chi_para", "chi_dia", "data_gradient",
    "data_step", "deviation", "chi_scale", "reliability", "weight", "dipole", "echo_time", "b0", "b0_dir", "voxel_mm",
    "r2star", "r2prime", "pass_index", "stack",
]  # fmt: skip
Dtype = Literal["float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"]
Provider = Literal["cpu", "openvino", "cuda", "tensorrt"]
Precision = Literal["f32", "f16", "bf16", "tf32"]
FIELD_UNITS = ("ppm", "ppb", "Hz", "rad/s", "rad")  # rad: the phase at the echo time
UNITS: Mapping[str, tuple[str, ...]] = {
    "local_field": FIELD_UNITS,
    "total_field": FIELD_UNITS,
    "background_field": FIELD_UNITS,
    "wrapped_phase": ("rad",),
    "unwrapped_phase": ("rad",),
    "chi": ("ppm", "ppb"),
    "chi_imaginary": ("ppm", "ppb"),
    "chi_off_axis_field": ("ppm", "ppb"),
    "chi_para": ("ppm", "ppb"),
    "chi_dia": ("ppm", "ppb"),
    "data_gradient": ("ppm", "ppb"),
    "data_step": ("ppm", "ppb"),
    "deviation": ("ppm", "ppb"),
    "chi_scale": ("ppm", "ppb"),
    "reliability": ("1/ppm",),
    "echo_time": ("s", "ms"),
    "b0": ("T",),
    "voxel_mm": ("mm",),
    "r2star": ("1/s",),
    "r2prime": ("1/s",),
}  # the rest is "1"
UNSCALED = ("mask", "probability", "wrap_count", "dipole", "echo_time", "b0", "b0_dir", "voxel_mm", "pass_index")
TAKES: Mapping[str, tuple[str, ...]] = {
    "mask": ("magnitude", "wrapped_phase"),
    "unwrap": ("wrapped_phase",),
    "background": ("total_field",),
    "inversion": ("local_field",),
    "single_step": ("total_field",),
    "phase_to_chi": ("wrapped_phase",),
}
GIVES: Mapping[str, tuple[str, ...]] = {
    "mask": ("mask", "probability"),
    "unwrap": ("unwrapped_phase", "wrap_count"),
    "background": ("local_field", "background_field"),
    "inversion": ("chi",),
    "single_step": ("chi",),
    "phase_to_chi": ("chi",),
}
