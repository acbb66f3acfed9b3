"""What a map that goes back through MRD says of itself, and what is said of a recipe that is not granted."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from qsm_runtime.io.mrd.answer import Said
from qsm_runtime.io.mrd.encodings import ENCODINGS, DataType

if TYPE_CHECKING:
    from qsm_runtime.io.mrd.read import Study
    from qsm_runtime.serve.settings import Answer


def denial(recipe: str, allowed: Sequence[str]) -> str:
    """For the scanner's log. allowed: names, the server's own first."""
    if not allowed:
        return f"this server answers by its own recipe, not {recipe}"
    others = f"; {', '.join(allowed[1:])} may be asked for too" if allowed[1:] else ""
    return f"this server answers by recipe {allowed[0]}, not {recipe}{others}; start it with --allow-recipe {recipe}"


def said_of(study: Study, answer: Answer, clipped: int, data_type: DataType, asked: str) -> Said:
    """In the series' name, the comment and the Meta attributes. asked: the recipe that was, granted or not."""
    reference = answer.result.record.get("reference", {})
    comment, addition = "QSM research; no medical device", f"QSM_{ENCODINGS[data_type].unit}"
    if answer.late:
        comment += f"; by recipe {answer.recipe} to keep the deadline"
    elif asked and asked.casefold() != answer.recipe.casefold():
        comment += f"; by recipe {answer.recipe}, not {asked}"
    elif asked:
        comment += f"; by recipe {answer.recipe}"
    if answer.late or asked:
        addition += f"_{answer.recipe}"
    if answer.result.warnings or study.acquisition.warnings:
        comment += "; see the warnings in the log"
    fields = {
        "QsmRecipe": answer.recipe,
        "QsmVersion": version("qsm_runtime"),
        "QsmReferenceRegion": str(reference.get("region", "")),
        "QsmReferencePpm": f"{reference.get('value_ppm', 0.0):.6g}",
        "QsmClippedVoxels": str(clipped),
        "QsmPhaseScale": study.acquisition.phase_scaling,
        "QsmEchoTimesMs": " ".join(f"{1000 * t:g}" for t in study.acquisition.scan.echo_times_s),
    }
    return Said(addition, comment, fields)
