"""How much the orientations of several scans determine: counts, angles, and the conditioning of each method.

COSMOS sees D_i(k) = 1/3 - (k.b_i)^2: its least squares is diagonal in k, so its singular values are the roots of the
mean of D_i^2 over the orientations. Two orientations never do: the cones where D_1 and D_2 vanish always meet.
STI and GLTA fit six numbers to rows of b_i b_i^T, the same rows at every k.
"""

import numpy as np

from qsm_runtime.errors import InputError

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # order of a symmetric tensor's six components
LEAST_ORIENTATIONS = {"cosmos": 3, "sti": 6, "glta": 6}
LEAST_POWER = 2e-3  # of mean D^2 over the orientations in the worst direction: noise grows 22-fold there
LEAST_SINGULAR_VALUE = 0.05  # of the rows over the square root of their number: 20-fold noise at most
SPHERE_POINTS = 4000  # directions of k over a half sphere, about two degrees apart


def angles_degrees(directions: np.ndarray) -> np.ndarray:
    """Angles (n, n) between the axes along unit vectors (n, 3), 0..90: b and -b make the same field."""
    return np.degrees(np.arccos(np.clip(np.abs(directions @ directions.T), 0.0, 1.0)))


def dipole_power(directions: np.ndarray) -> tuple[float, float]:
    """Least and largest mean D(k)^2 over the orientations (n, 3), k going over a half sphere."""
    z = (np.arange(SPHERE_POINTS) + 0.5) / SPHERE_POINTS
    angle = np.pi * (1 + 5**0.5) * np.arange(SPHERE_POINTS)  # golden spiral
    radius = np.sqrt(1 - z * z)
    k = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    power = ((1.0 / 3.0 - (k @ directions.T) ** 2) ** 2).mean(axis=1)
    return float(power.min()), float(power.max())


def quadratic_rows(directions: np.ndarray) -> np.ndarray:
    """Rows (n, 6) of b^T T b over T's components, xx xy xz yy yz zz with the off-diagonal ones doubled."""
    return np.stack([directions[:, a] * directions[:, b] * (1.0 if a == b else 2.0) for a, b in PAIRS], axis=1)


def condition_number(method: str, directions: np.ndarray) -> float:
    """Largest over smallest singular value of what `method` solves with unit vectors (n, 3); inf where one is zero."""
    if method == "cosmos":
        least, most = np.sqrt(dipole_power(directions))
    else:
        values = np.linalg.svd(quadratic_rows(directions), compute_uv=False)
        least, most = values[-1] if len(values) == len(PAIRS) else 0.0, values[0]
    return float(most / least) if least > 0 else float("inf")


def check_count(method: str, count: int) -> None:
    """Raise InputError where `count` orientations are too few for `method`."""
    least = LEAST_ORIENTATIONS[method]
    if count < least:
        raise InputError(f"{method.upper()} needs {least} orientations or more, got {count}: add scans")


def check_geometry(method: str, directions: np.ndarray) -> None:
    """Raise InputError where the orientations, unit vectors (n, 3), are too few or too much alike for `method`."""
    check_count(method, len(directions))
    widest = f"B0 directions are at most {angles_degrees(directions).max():.1f} degrees apart"
    if method == "cosmos":
        power = dipole_power(directions)[0]
        if power < LEAST_POWER:
            raise InputError(
                f"COSMOS: these orientations leave directions in k-space unseen (mean D^2 {power:.2g}, {LEAST_POWER} "
                f"needed; {widest}); turn the head further, or about another axis"
            )
        return
    weakest = float(np.linalg.svd(quadratic_rows(directions), compute_uv=False)[-1]) / np.sqrt(len(directions))
    if weakest < LEAST_SINGULAR_VALUE:
        raise InputError(
            f"{method.upper()}: the orientations do not determine a tensor (smallest singular value {weakest:.3g}, "
            f"{LEAST_SINGULAR_VALUE} needed; {widest}); turn the head further, about more than one axis"
        )
