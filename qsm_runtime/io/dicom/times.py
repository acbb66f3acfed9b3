"""Echo times of a scan, and the time that a phase difference stands for."""

from qsm_runtime.errors import MetadataError
from qsm_runtime.io.dicom.stacks import Stack
from qsm_runtime.io.echoes import SAME_TIME_S


def echo_times(
    stacks: dict[str, Stack], main: Stack, given_s: tuple[float, ...] | None, warnings: list[str]
) -> tuple[tuple[float, ...], bool]:
    """Echo times in s of the phase, and whether it is a difference of two echoes; adds to `warnings`.

    given_s overrides the headers. Raises MetadataError where neither states them.
    """
    if main.difference_ms:
        difference_s = _difference_s(stacks, main, given_s)
        warnings.append(f"{main} is a phase difference: one echo of {1000 * difference_s:.4g} ms")
        return (difference_s,), True
    stated = [echo.time_ms for echo in main.echoes]
    if given_s is None:
        if None in stated:
            raise MetadataError(f"{main}: no header states EchoTime; give --echo-times-ms")
        return tuple(t / 1000 for t in stated if t is not None), False
    if len(given_s) != len(stated):
        raise MetadataError(f"{len(stated)} echoes but {len(given_s)} echo times given; give one for each echo")
    for i, (flag, time_ms) in enumerate(zip(given_s, stated, strict=True)):
        if time_ms is not None and abs(flag - time_ms / 1000) > SAME_TIME_S:
            warnings.append(f"echo time {flag:g} s of echo {i + 1} overrides {time_ms / 1000:g} s of its header")
    return tuple(float(t) for t in given_s), False


def _difference_s(stacks: dict[str, Stack], main: Stack, given_s: tuple[float, ...] | None) -> float:
    if given_s is not None and len(given_s) == 1:
        return float(given_s[0])
    magnitude = [echo.time_ms for echo in stacks["magnitude"].echoes] if "magnitude" in stacks else []
    if given_s is not None and len(given_s) == 2:
        first, second = given_s
    elif any(main.difference_ms):
        first, second = (t / 1000 for t in main.difference_ms)
    elif len(magnitude) == 2 and magnitude[0] and magnitude[1]:
        first, second = magnitude[0] / 1000, magnitude[1] / 1000
    else:
        raise MetadataError(f"{main} is a phase difference of echoes that no header names; give --echo-times-ms")
    if second <= first:
        raise MetadataError(f"{main}: phase difference of echoes at {first:g} and {second:g} s; give --echo-times-ms")
    return second - first
