"""The derived objects of an answer, as files ready to be sent."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from qsm_runtime.errors import OutputError
from qsm_runtime.io.acquisition import Acquisition
from qsm_runtime.io.atomic import said
from qsm_runtime.io.dicom.write import derived_series

if TYPE_CHECKING:
    from qsm_runtime.serve.core import Answer

AT_ONCE = 16


def write_answer(acquisition: Acquisition, answer: "Answer", folder: Path) -> int:
    """Write SERIES-PLANE.dcm into a folder; how many. Raises OutputError where the disk does not take them.

    A late answer and every warning stand in the objects: see io.dicom.write.
    """
    maps = {"chi": answer.result.chi_ppm}
    series = derived_series(acquisition, maps, answer.result.record, warnings=answer.result.warnings, late=answer.late)
    paths = []
    try:
        for number, one in enumerate(series, 1):
            for plane, dataset in enumerate(one.datasets, 1):
                paths.append(folder / f"{number:02d}-{plane:04d}.dcm")
                dataset.save_as(paths[-1], enforce_file_format=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:  # the disk writes them together
            list(pool.map(_sync, paths))
    except OSError as error:
        raise OutputError(said(folder, error)) from error
    return len(paths)


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
