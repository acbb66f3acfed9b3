"""Shared by all tests: data kept beside the checkout, and the same examples in every run."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHARED = Path(os.environ.get("QSM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# made examples are those of the run before, and a slow machine is no failure; look for new ones with more of them
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared test data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"shared test data not found at {SHARED} (set QSM_SHARED_DATA)")
    return SHARED
