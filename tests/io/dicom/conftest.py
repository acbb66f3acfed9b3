"""The makers of DICOM, as a fixture."""

import made_dicom
import pytest


@pytest.fixture(scope="session")
def kit():
    return made_dicom
