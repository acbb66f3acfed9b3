"""The conventions of each network as its paper and code describe them, in the fields of a card.

What a paper does not say is null ("not known"), never a guess that looks like a fact.
"""

from collections.abc import Mapping
from typing import Any

Values = dict[str, Any]

BRAIN = "healthy adult brains"
NONE = {"kind": "none"}
MM1 = [1.0, 1.0, 1.0]
Z_AXIS = {"voxel_mm": MM1, "tolerance": 0.05, "resample": "fourier", "b0": "rotate_to_z"}
ANY_DIPOLE = {"voxel_mm": MM1, "tolerance": 0.05, "resample": "fourier", "b0": "in_dipole"}
UNKNOWN = dict.fromkeys(("b0_tesla", "chi_ppm", "field_ppm", "voxel_mm", "angle_deg", "snr"))
WHOLE = {"allowed": False, "patch": None, "crop": [0, 0, 0], "overlap": [0, 0, 0], "blend": "crop"}


def affine(mean: float | list[float], std: float | list[float]) -> Values:
    return {"kind": "affine", "mean": mean, "std": std}


def port(tensor: str, meaning: str, unit: str, axes: str = "ncxyz", sign: int = 1, channels: Any = ()) -> Values:
    return {
        "tensor": tensor, "meaning": meaning, "unit": unit, "sign": sign, "axes": axes, "dtype": "float32",
        "channels": [{"meaning": m, "unit": u, "sign": 1} for m, u in channels],
    }  # fmt: skip


def size(multiple: int, pad_side: str = "end", smallest: int | None = None) -> Values:
    return {
        "multiple": multiple, "pad_side": pad_side, "pad_mode": "constant",
        "min": smallest or 2 * multiple, "max": None, "fixed": None,
    }  # fmt: skip


def patches(patch: int, crop: int, overlap: int = 0, blend: str = "crop") -> Values:
    return {"allowed": True, "patch": [patch] * 3, "crop": [crop] * 3, "overlap": [overlap] * 3, "blend": blend}


def normalisation(
    inputs: Values, outputs: Values, mask_before: bool = False, mask_after: bool | str = True, residual: str = "none"
) -> Values:
    return {
        "inputs": inputs, "outputs": outputs, "mask_before": mask_before, "mask_after": mask_after,
        "residual": residual,
    }  # fmt: skip


def card(
    name: str,
    task: str,
    title: str,
    citation: str,
    inputs: list[Values],
    outputs: list[Values],
    bytes_per_voxel: float,
    *,
    scaling: Values,
    sizes: Values,
    geometry: Mapping[str, Any] = Z_AXIS,
    dipole: Values | None = None,
    patching: Mapping[str, Any] = WHOLE,
    needs_mask: bool = True,
    erode_mm: float = 0.0,
    apply_mask: bool = True,
    combine: str = "single",
    domain: Mapping[str, Any] | None = None,
    anatomy: str = BRAIN,
    spdx: str = "NOASSERTION",
    redistributable: bool = False,
    source: str = "torch",
    physics: Values | None = None,
) -> Values:
    """All fields but the file's name and hash and the self-test, which the export knows."""
    return {
        "schema": "qsm-card/1",
        "name": name,
        "version": "1",
        "task": task,
        "title": title,
        "citation": citation,
        "licence": {"spdx": spdx, "redistributable": redistributable},
        "file": {"name": f"{name}.onnx", "sha256": "", "opset": 0, "source": source},
        "inputs": inputs,
        "outputs": outputs,
        "normalisation": scaling,
        "geometry": dict(geometry),
        "dipole": dipole,
        "size": sizes,
        "patching": dict(patching),
        "mask": {"needed": needs_mask, "erode_mm": erode_mm, "apply": apply_mask, "reference": "none"},
        "echoes": {"combine": combine},
        "domain": {**UNKNOWN, **(domain or {}), "anatomy": anatomy},
        "runtime": {
            "bytes_per_voxel": bytes_per_voxel, "providers": ["cpu"], "denormals_to_zero": True, "precision": "f32",
        },
        "physics": physics,
    }  # fmt: skip
