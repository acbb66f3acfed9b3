"""What a sidecar says of how its map was made."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qsm_runtime.pipeline import Result


def sidecar_fields(result: Result) -> dict[str, Any]:
    """Recipe, methods, options, what was chosen, times, warnings, and of chi its reference: JSON-able, new dicts."""
    made = result.record
    recipe, reference = made["recipe"], made["reference"]
    options = {stage: values for stage, values in recipe.items() if isinstance(values, Mapping)}
    return {
        "EstimationAlgorithm": ", ".join(f"{stage} {values['method']}" for stage, values in options.items()),
        "Recipe": recipe["name"],
        "Options": options,
        "ChosenParameters": made["chosen"],
        "Threads": made["threads"],
        "SecondsPerStage": made["seconds"],
        "MaskVoxels": int(np.count_nonzero(result.brain_mask)),
        "Warnings": list(result.warnings),
        "chi": {
            "ReferenceRegion": reference["region"],
            "ReferenceValue": reference["value_ppm"],
            "ReferenceVoxels": reference["voxels"],
        },
    }
