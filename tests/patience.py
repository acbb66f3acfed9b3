"""Waiting for other threads and processes: for what they do, not for a time, since a busy machine is no failure."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
PATIENCE_S = 300.0  # beyond what the slowest machine takes; a test waits so long only where it fails


def until(happened: Callable[[], T], said: Callable[[], str] = str, limit_s: float = PATIENCE_S) -> T:
    """Wait for what `happened` gives to be true; it. said: what to tell where that never comes."""
    end = time.monotonic() + limit_s
    while not (found := happened()):
        if time.monotonic() > end:
            pytest.fail(f"waited {limit_s:g} s in vain {said()}")
        time.sleep(0.01)
    return found
