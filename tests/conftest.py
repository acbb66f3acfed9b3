"""Fixtures shared by all tests: a scratch cache for JIT-free state, and data kept beside the checkout."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("QSM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared test data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"shared test data not found at {SHARED} (set QSM_SHARED_DATA)")
    return SHARED
