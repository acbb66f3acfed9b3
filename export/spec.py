"""What an exporter needs to know of one network, and the few values that only its checkpoint can tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from torch import nn

Found = Mapping[str, Any]  # what the card needs and the graph does not hold: statistics, steps, weights of physics


@dataclass(frozen=True)
class Spec:
    """build       the network at its published layout
    small       the same with few channels, for tests
    load        fills it from a checkpoint in the published layout; returns what it found besides
    card        the card, from what was found; file and self-tests are filled in by the export
    statistics  what the card needs besides the weights: name -> the names under which published files carry it
    neutral     all that the card needs, where the weights are random
    parameters  as counted by the published definition
    """

    build: Callable[[], nn.Module]
    small: Callable[[], nn.Module]
    load: Callable[[Path, nn.Module], Found]
    card: Callable[[Found], dict[str, Any]]
    parameters: int
    statistics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    neutral: Found = field(default_factory=dict)


def read_statistics(path: Path, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Means and deviations that published networks keep beside the weights: .mat, .npz."""
    content = scipy.io.loadmat(path) if path.suffix == ".mat" else dict(np.load(path, allow_pickle=False))
    found = {}
    for name, aliases in names.items():
        value = next((content[a] for a in aliases if a in content), None)
        if value is None:
            raise ValueError(f"{path}: none of {', '.join(aliases)} is in it")
        values = [float(v) for v in np.ravel(value)]
        found[name] = values[0] if len(values) == 1 else values
    return found
