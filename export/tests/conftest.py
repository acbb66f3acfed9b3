"""The same random numbers in every run, whichever tests are run."""

import pytest
import torch


@pytest.fixture(autouse=True)
def steady() -> None:
    torch.manual_seed(0)
