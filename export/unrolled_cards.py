"""Cards of the networks that run between dipole steps: the graph is the CNN alone, `physics` is the rest."""

from export.cards import ANY_DIPOLE, Z_AXIS, Values, affine, card, normalisation, patches, port, size
from export.spec import Found

CNN_BYTES = 420.0  # peak of one pass at 128^3: 881 MB
REACH = 17  # 3^3 convolutions in a row: how far a voxel's output sees
CITATIONS = {
    "lpcnn": "Lai et al., Learned proximal networks for QSM, MICCAI 2020, doi:10.1007/978-3-030-59713-9_13",
    "modl": "Feng et al., MoDL-QSM, NeuroImage 240:118376, 2021, doi:10.1016/j.neuroimage.2021.118376",
    "mog": "Feng et al., MoG-QSM: model-based generative adversarial network for QSM, arXiv:2101.08413, 2021",
    "vandi": "Polak et al., Nonlinear dipole inversion, NMR Biomed 33:e4271, 2020, doi:10.1002/nbm.4271",
    "spinet": "Venkatesh et al., SpiNet-QSM, MAGMA 37:411, 2024, doi:10.1007/s10334-024-01158-7",
}
CHI = [("chi", "ppm"), ("chi_off_axis_field", "ppm")]
COMPLEX = [("chi", "ppm"), ("chi_imaginary", "ppm")]


def _card(
    name: str, title: str, found: Found, channels: list, dc: float, physics: Values, masked: bool | str
) -> Values:
    parts = {"channels": channels} if channels else {}
    meaning, unit = ("stack", "1") if channels else ("chi", "ppm")
    scale = affine(found["mean"], found["std"])
    return card(
        name, "inversion", title, CITATIONS[name],
        [port("x", meaning, unit, **parts)], [port("z", meaning, unit, **parts)], CNN_BYTES,
        scaling=normalisation({"x": scale}, {"z": scale}, mask_before=bool(masked), mask_after=masked),
        sizes=size(1, smallest=16), geometry=ANY_DIPOLE, dipole={"dc": dc, "order": "half"},
        patching=patches(96, REACH), domain={"b0_tesla": [3.0, 3.0], "voxel_mm": [1.0, 1.06]}, physics=physics,
    )  # fmt: skip


def _gradient(found: Found) -> Values:
    return {"scheme": "proximal_gradient", "passes": 3, "step": found["step"], "start": "adjoint"}


def lpcnn(found: Found) -> Values:
    return _card("lpcnn", "LPCNN: learned proximal map", found, [], 0.0, _gradient(found), "restored")


def mog(found: Found) -> Values:
    return _card("mog", "MoG-QSM: proximal map trained as a generator", found, [], 0.0, _gradient(found), True)


def modl(found: Found) -> Values:
    title = "MoDL-QSM: proximal map on chi33 and the field of chi13 and chi23"
    # the second channel is the field that chi13 and chi23 make where B0 lies along z, as in all its training
    return _card("modl", title, found, CHI, 0.0, _gradient(found), True) | {"geometry": Z_AXIS}


def spinet(found: Found) -> Values:
    physics = {
        "scheme": "schatten_cg", "passes": 3, "weight": found["lambda_val"], "power": found["p"], "cg_steps": 25,
        "start": "adjoint",
    }  # fmt: skip
    title = "SpiNet-QSM: proximal map on real and imaginary part, Schatten p-norm data step"
    return _card("spinet", title, found, COMPLEX, 1 / 3, physics, False)


def vandi(found: Found) -> Values:
    steps = found["step"]
    scale = affine(0.0, found["std"])
    gradient = port("gradient", "data_gradient", "ppm")
    number = port("pass_index", "pass_index", "1", "") | {"dtype": "int64"}
    return card(
        "vandi", "inversion", "VaNDI: field-of-experts prior of a variational network", CITATIONS["vandi"],
        [port("x", "chi", "ppm"), gradient, number], [port("z", "chi", "ppm")], 24 * 4 * 8.0,
        scaling=normalisation({"x": scale, "gradient": scale}, {"z": scale}, mask_after=True),
        sizes=size(1, smallest=16), geometry=ANY_DIPOLE, dipole={"dc": 0.0, "order": "half"},
        physics={"scheme": "learned_gradient", "passes": len(steps), "step": steps, "start": "zero"},
    )  # fmt: skip
