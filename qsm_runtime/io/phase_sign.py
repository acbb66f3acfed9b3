"""The sign of stored phase by manufacturer. The project's phase is +2 pi gamma dB TE: more field, more phase.

Settled on data, not on hearsay, with two absolute references: air is 9.4 ppm paramagnetic against tissue, so the
field of a dipole forward model of the body outline has a known sign, and the field in the liver rises towards the
lung above it; and fat resonates 3.4 ppm below water.
  Siemens  as is. Head, Prisma XA30: field gradients inside the head correlate +0.20 to +0.28 along the three axes
           with those modelled from its outline. Abdomen, Prisma E11: rises towards the lung in 98 % of columns.
  Philips  as is. Head, Ingenia Elition: +0.27 to +0.34, likewise. Abdomen, Ingenia: 86 % of columns.
  GE       negated. Abdomen, MR450: the stored phase difference is minus the scanner's own B0 map (correlation
           -0.9997); that map rises towards the lung (85 % of columns) and shows fat at -217 Hz (wrapped: +125 Hz),
           both as they must be.
Real and imaginary images of one vendor follow the same sign.
"""

from qsm_runtime.errors import UsageError

SIGNS = {"auto": 0, "+": 1, "-": -1}
ALIASES = {"+1": "+", "1": "+", "-1": "-"}
SIGN_OF_MANUFACTURER = {"ge": -1, "siemens": 1, "philips": 1}


def is_ge(manufacturer: str) -> bool:
    return "ge" in _words(manufacturer)


def settle_sign(manufacturer: str, phase_sign: str = "auto") -> tuple[int, str, list[str]]:
    """+1 or -1 to multiply the stored phase by, the reason, and warnings. phase_sign: "auto", "+" or "-"."""
    phase_sign = ALIASES.get(phase_sign, phase_sign)
    if phase_sign not in SIGNS:
        raise UsageError(f"phase sign {phase_sign!r} is none of {', '.join(SIGNS)}")
    if phase_sign != "auto":
        return SIGNS[phase_sign], "as given", []
    words = _words(manufacturer)
    for vendor, sign in SIGN_OF_MANUFACTURER.items():
        if vendor in words:
            return sign, f"{manufacturer} stores phase with sign {'+' if sign > 0 else '-'}", []
    said = f"manufacturer {manufacturer!r} is unknown" if manufacturer else "no sidecar names the manufacturer"
    warning = (
        f"{said}; phase is taken as growing with field (+): give --phase-sign - if susceptibility comes out inverted"
    )
    return 1, said, [warning]


def _words(manufacturer: str) -> list[str]:
    return manufacturer.lower().replace("_", " ").split()
