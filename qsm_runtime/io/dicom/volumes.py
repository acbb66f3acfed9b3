"""A stack's samples as volumes, one an echo, that the scaling and pairing of every format take."""

from pathlib import Path

import numpy as np

from qsm_runtime.io.dicom.geometry import Layout
from qsm_runtime.io.dicom.pixels import read_planes
from qsm_runtime.io.dicom.scaling import check_one_scale, value_scale
from qsm_runtime.io.dicom.stacks import EchoStack, Stack
from qsm_runtime.io.image import Image


def volumes(stack: Stack, layout: Layout, affine: np.ndarray, threads: int) -> list[Image]:
    """A volume for each echo, stored as in the file; its samples are read here."""
    instance = stack.first.instance
    frames = [frame for echo in stack.echoes for frame in echo.frames]
    planes = np.empty((len(frames), instance.rows, instance.columns), instance.dtype)
    read_planes(frames, planes, threads)
    images, start = [], 0
    for echo in stack.echoes:
        own = planes[start : start + len(echo.frames)]
        start += len(echo.frames)
        images.append(_image(stack, echo, own, layout, affine))
    return images


def _image(stack: Stack, echo: EchoStack, planes: np.ndarray, layout: Layout, affine: np.ndarray) -> Image:
    name = f"{stack}, {echo}"
    scales = np.array([value_scale(frame) for frame in echo.frames])
    if stack.part == "phase":
        check_one_scale(echo.frames, name)
    if (scales != scales[0]).any():  # planes scaled each by itself
        slopes, intercepts = scales.astype(np.float32).T[..., None, None]
        planes = planes * slopes + intercepts
        scales[0] = 1.0, 0.0
    slope, intercept = (float(s) for s in scales[0])
    stored = layout.array(planes)[..., None]
    return Image(Path(name), stored, slope, intercept, None, affine, {})
