"""Arrays by meaning, in the runtime's units, to the tensors of a graph and back, as the card says.

In: unit and sign, normalisation, mask, axes, type. Out: the same backwards; where the mask multiplies what the graph
gave before it is restored (normalisation.mask_after), the value outside is the mean, as those networks were trained.
"""

from collections.abc import Callable, Mapping

import numpy as np

from qsm_runtime.errors import MetadataError, ModelError
from qsm_runtime.networks import adapt
from qsm_runtime.networks.card import Card
from qsm_runtime.networks.card_parts import Channel, Normalisation, Port
from qsm_runtime.networks.frame import Frame
from qsm_runtime.networks.tiling import Tiling
from qsm_runtime.units import TWO_PI, hz_per_ppm, rad_per_ppm

Values = Mapping[str, np.ndarray]
Session = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
Progress = Callable[[float], None] | None
DTYPES = {"bfloat16": "float32"}  # numpy has none: the session casts
PLAIN = Normalisation("none")
NOT_MASKED = ("mask", "dipole")


class Net:
    """One graph on one frame: values by meaning in, values by meaning out; in patches where the whole does not fit.

    given      what is the same in every call: arrays (x, y, z) on the frame, numbers and vectors, by meaning
    limit_mib  of working memory
    """

    def __init__(
        self,
        card: Card,
        run: Session,
        frame: Frame,
        given: Values,
        limit_mib: float,
        progress: Progress = None,
    ) -> None:
        self.card, self.frame, self.run, self.progress = card, frame, run, progress
        self.given = {**given, "mask": frame.mask}
        self.plan = Tiling(card, frame.shape, limit_mib)

    def __call__(self, values: Values) -> dict[str, np.ndarray]:
        """float32 (x, y, z) arrays of the card's outputs, restored to the runtime's units and signs."""
        known = {**self.given, **values}
        ports = self.card.inputs
        stacks = [self._input(port, known) for port in ports]
        counts = [len(port.parts) if "c" in port.axes else 1 for port in self.card.outputs]

        def one(pieces: list[np.ndarray]) -> np.ndarray:
            tensors = {port.tensor: _tensor(x, port) for port, x in zip(ports, pieces, strict=True)}
            made = self.run(tensors)
            return np.concatenate([_stack(made, port, self.card.name) for port in self.card.outputs])

        out = self.plan.apply(one, stacks, self.progress)
        found, first = {}, 0
        for port, count in zip(self.card.outputs, counts, strict=True):
            last = len(out) if port is self.card.outputs[-1] else first + count
            found.update(self._output(port, out[first:last], known))
            first = last
        return found

    def _input(self, port: Port, known: Values) -> np.ndarray:
        """(channel, x, y, z) float32, normalised; or the number, the vector or the kernel of a port."""
        parts = []
        for part in port.parts:
            if part.meaning not in known:
                raise MetadataError(
                    f"network {self.card.name} needs {part.meaning.replace('_', ' ')} (tensor {port.tensor!r}), and "
                    "none was given: supply it, or take another network"
                )
            value = np.asarray(known[part.meaning])
            if value.dtype == bool:
                value = value.astype(np.float32)
            factor = self.factor(part)
            parts.append(value if factor == 1 else value * np.float32(factor))
        if parts[0].shape[-3:] != self.frame.shape or parts[0].ndim != 3:
            return parts[0]
        x = np.stack(parts)
        rules = self.card.normalisation
        x = normalised(x, rules.inputs.get(port.tensor, PLAIN), self.frame.mask)
        if rules.mask_before and port.meaning not in NOT_MASKED:
            x = x * self.frame.mask
        return np.ascontiguousarray(x, np.float32)

    def _output(self, port: Port, x: np.ndarray, known: Values) -> dict[str, np.ndarray]:
        rules = self.card.normalisation
        if rules.mask_after is True:
            x = x * self.frame.mask
        x = restored(x, rules.outputs.get(port.tensor, PLAIN))
        if rules.mask_after == "restored":
            x = x * self.frame.mask
        if port.meaning in ("wrap_count", "probability", "mask"):
            return {port.meaning: x}  # (channel, x, y, z): classes
        found: dict[str, np.ndarray] = {
            part.meaning: one * np.float32(1 / self.factor(part)) for part, one in zip(port.parts, x, strict=True)
        }
        return found if rules.residual == "none" else self._residual(found, known)

    def _residual(self, found: dict[str, np.ndarray], known: Values) -> dict[str, np.ndarray]:
        """Output plus the input of the same meaning, or the first input less the output."""
        if self.card.normalisation.residual == "subtract":
            first = known[self.card.inputs[0].parts[0].meaning]
            return {meaning: first - x for meaning, x in found.items()}
        source = {m: m if m in known else self.card.inputs[0].parts[0].meaning for m in found}
        return {meaning: x + known[source[meaning]] for meaning, x in found.items()}

    def factor(self, part: Channel) -> float:
        """What a value in the runtime's unit and sign is multiplied by for the network."""
        return part.sign * self._unit(part)

    def _unit(self, part: Channel) -> float:
        if part.unit in ("ppb", "ms"):
            return 1e3
        field = part.meaning.endswith("_field")
        if part.unit in ("Hz", "rad/s") or (part.unit == "rad" and field):
            b0 = self._number("b0", "the field strength", part.unit)
            if part.unit == "rad":
                return rad_per_ppm(b0, self._number("echo_time", "an echo time", part.unit))
            return hz_per_ppm(b0) * (TWO_PI if part.unit == "rad/s" else 1)
        return 1.0

    def _number(self, meaning: str, words: str, unit: str) -> float:
        if meaning not in self.given:
            raise MetadataError(f"network {self.card.name} takes a field in {unit}: {words} is needed and not known")
        return float(self.given[meaning])


def normalised(x: np.ndarray, rule: Normalisation, mask: np.ndarray) -> np.ndarray:
    """(channel, x, y, z) as the graph wants its values."""
    within = mask if rule.within == "mask" else None
    if rule.kind == "none":
        return x
    if rule.kind == "quantile":
        x = adapt.clipped(x, rule.low_pct, rule.high_pct, within)
    elif rule.kind == "zscore":
        x = adapt.standardised(x, rule.low_pct, rule.high_pct, within)
    return adapt.affine(x, np.asarray(rule.mean), np.asarray(rule.std))


def restored(x: np.ndarray, rule: Normalisation) -> np.ndarray:
    """The graph's (channel, x, y, z) output in units again."""
    if rule.kind == "none":
        return x
    if rule.kind == "atanh":
        x = np.arctanh(np.clip(x, np.float32(-0.999999), np.float32(0.999999)))
    return adapt.affine_inverse(x, np.asarray(rule.mean), np.asarray(rule.std))


def _tensor(x: np.ndarray, port: Port) -> np.ndarray:
    """`x` with the port's axes and type. (channel, x, y, z), a vector or a number."""
    letters = {4: "cxyz", 3: "xyz", 1: "c", 0: ""}[x.ndim]
    for letter in port.axes:
        if letter not in letters:
            x, letters = x[None], letter + letters
    for letter in letters:
        if letter not in port.axes:
            x, letters = np.squeeze(x, letters.index(letter)), letters.replace(letter, "")
    x = np.transpose(x, [letters.index(letter) for letter in port.axes])
    return np.ascontiguousarray(x, DTYPES.get(port.dtype, port.dtype))


def _stack(made: Mapping[str, np.ndarray], port: Port, name: str) -> np.ndarray:
    """(channel, x, y, z) float32 of an output tensor."""
    y = np.asarray(made[port.tensor], np.float32)
    if y.ndim != len(port.axes):
        raise ModelError(
            f"network {name}: output {port.tensor!r} has {y.ndim} axes, its card says {port.axes!r}; correct the card"
        )
    letters = port.axes
    if "n" in letters:
        y, letters = np.take(y, 0, letters.index("n")), letters.replace("n", "")
    if "c" not in letters:
        y, letters = y[None], "c" + letters
    y = np.transpose(y, [letters.index(letter) for letter in "cxyz"])
    if port.channels and len(y) != len(port.channels):
        raise ModelError(
            f"network {name}: output {port.tensor!r} has {len(y)} channels, its card names {len(port.channels)}"
        )
    return y
