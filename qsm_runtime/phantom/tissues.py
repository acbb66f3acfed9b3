"""What each simulated tissue is: label, susceptibility, signal and decay at 3 T.

Susceptibilities are ppm relative to soft tissue (-9.05 ppm SI). Sources: Schenck 1996, 10.1118/1.597854 (air,
bone, fat); Langkammer 2012, 10.1016/j.neuroimage.2012.05.049 (iron-rich nuclei, R2* against susceptibility);
Jain 2012, 10.1038/jcbfm.2012.91 (venous blood); Marques 2021, 10.1002/mrm.28716 (ranges within a tissue).
"""

from typing import NamedTuple


class Tissue(NamedTuple):
    """label     code in the label map
    chi_ppm      mean susceptibility
    texture_ppm  standard deviation of the susceptibility within the tissue
    signal       signal at echo time 0 (proton density and T1 weighting), arbitrary unit
    r2star_hz    decay without the tissue's own susceptibility
    r2prime_hz_per_ppm  growth of the decay with |chi| at 3 T; scales with field strength
    """

    label: int
    chi_ppm: float
    texture_ppm: float
    signal: float
    r2star_hz: float
    r2prime_hz_per_ppm: float = 120.0


AIR_CHI_PPM = 9.4
FAT_SHIFT_PPM = -3.4  # chemical shift: seen by fat's own phase, no source of field

TISSUES: dict[str, Tissue] = {
    "air": Tissue(0, AIR_CHI_PPM, 0.0, 0.0, 0.0, 0.0),
    "caudate": Tissue(1, 0.060, 0.010, 0.72, 14.0),
    "pallidum": Tissue(2, 0.150, 0.018, 0.74, 15.0),
    "putamen": Tissue(3, 0.075, 0.012, 0.72, 14.0),
    "red_nucleus": Tissue(4, 0.110, 0.014, 0.74, 15.0),
    "dentate": Tissue(5, 0.100, 0.015, 0.74, 15.0),
    "substantia_nigra": Tissue(6, 0.130, 0.018, 0.74, 15.0),
    "thalamus": Tissue(7, 0.010, 0.012, 0.74, 16.0),
    "white_matter": Tissue(8, -0.030, 0.012, 0.80, 18.0),
    "grey_matter": Tissue(9, 0.020, 0.012, 0.70, 13.0),
    "csf": Tissue(10, 0.000, 0.004, 0.34, 2.0, 0.0),
    "vein": Tissue(11, 0.300, 0.025, 0.60, 12.0, 80.0),
    "bone": Tissue(12, -2.0, 0.15, 0.05, 400.0, 0.0),
    "fat": Tissue(13, 0.60, 0.05, 1.00, 20.0, 0.0),
    "muscle": Tissue(14, 0.00, 0.02, 0.60, 28.0, 0.0),
    "skin": Tissue(15, 0.00, 0.02, 0.50, 40.0, 0.0),
    "calcification": Tissue(16, -2.0, 0.20, 0.15, 30.0, 25.0),
    "haemorrhage": Tissue(17, 1.2, 0.15, 0.45, 25.0, 60.0),
}
LABELS: dict[str, int] = {name: tissue.label for name, tissue in TISSUES.items()}
DEEP_GREY = ("caudate", "pallidum", "putamen", "red_nucleus", "dentate", "substantia_nigra")  # rich in iron
