"""Cards of the networks that go from field or phase to chi, field or phase in one pass."""

from functools import partial

from export.cards import MM1, NONE, Values, affine, card, normalisation, patches, port, size
from export.spec import Found

FIELD, TOTAL = port("field", "local_field", "ppm"), port("field", "total_field", "ppm")
CHI = port("chi", "chi", "ppm")
PLAIN = normalisation({"field": NONE}, {"chi": NONE})
AT_3T = {"b0_tesla": [3.0, 3.0], "voxel_mm": [1.0, 1.0], "angle_deg": [0.0, 0.0]}
U16, U32 = 513.0, 1030.0  # bytes a voxel of U-Nets with 16 and 32 channels on the finest level
SYNTHETIC = "synthetic spheres and cuboids"

_inversion = partial(card, task="inversion", inputs=[FIELD], outputs=[CHI], domain=AT_3T)


def deepqsm(found: Found) -> Values:
    return _inversion(
        "deepqsm", title="DeepQSM: U-Net trained on synthetic shapes",
        citation="Bollmann et al., NeuroImage 195:373, 2019, doi:10.1016/j.neuroimage.2019.03.060",
        bytes_per_voxel=U16, scaling=PLAIN, sizes=size(16), anatomy=SYNTHETIC,
    )  # fmt: skip


def _qsmnet(name: str, title: str, citation: str, found: Found, chi_ppm: list[float] | None) -> Values:
    field, chi = (affine(found[f"{k}_mean"], found[f"{k}_std"]) for k in ("input", "label"))
    return _inversion(
        name, title=title, citation=citation, bytes_per_voxel=908.0,
        scaling=normalisation({"field": field}, {"chi": chi}, mask_after=False), sizes=size(16, "both"),
        domain={**AT_3T, "chi_ppm": chi_ppm}, source="tensorflow",
    )  # fmt: skip


def qsmnet(found: Found) -> Values:
    citation = "Yoon et al., NeuroImage 179:199, 2018, doi:10.1016/j.neuroimage.2018.06.030"
    return _qsmnet("qsmnet", "QSMnet: U-Net trained on COSMOS", citation, found, None)


def qsmnet_plus(found: Found) -> Values:
    citation = "Jung et al., NeuroImage 211:116619, 2020, doi:10.1016/j.neuroimage.2020.116619"
    return _qsmnet("qsmnet_plus", "QSMnet+: QSMnet trained over a wider range of chi", citation, found, None)


def xqsm(found: Found) -> Values:
    return _inversion(
        "xqsm", title="xQSM: octave-convolution U-Net",
        citation="Gao et al., NMR Biomed 34:e4461, 2021, doi:10.1002/nbm.4461",
        bytes_per_voxel=1436.0, scaling=PLAIN, sizes=size(8),
    )  # fmt: skip


def ir2qsm(found: Found) -> Values:
    return _inversion(
        "ir2qsm", title="IR2QSM: iterated U-Net with reverse concatenations and a recurrent middle",
        citation="Li et al., arXiv:2406.12300, 2024", bytes_per_voxel=702.0, scaling=PLAIN, sizes=size(8),
    )  # fmt: skip


def cycleqsm(found: Found) -> Values:
    return _inversion(
        "cycleqsm", title="CycleQSM: generator of an unpaired CycleGAN whose other generator is the dipole",
        citation="Oh et al., arXiv:2012.03842, 2020", bytes_per_voxel=U32, scaling=PLAIN, sizes=size(16),
    )  # fmt: skip


def qsmgan(found: Found) -> Values:
    return _inversion(
        "qsmgan", title="QSMGAN: U-Net with a receptive field wider than its output, refined as a generator",
        citation="Chen et al., NeuroImage 207:116389, 2020, doi:10.1016/j.neuroimage.2019.116389",
        bytes_per_voxel=U32, sizes=size(8), patching=patches(64, 8),
        scaling=normalisation({"field": affine(0.0, 0.01)}, {"chi": {"kind": "atanh", "mean": 0.0, "std": 0.1}}),
    )  # fmt: skip


def autoqsm(found: Found) -> Values:
    return card(
        "autoqsm", "single_step", "AutoQSM: V-Net from the total field, without a brain mask",
        "Wei et al., NeuroImage 202:116064, 2019, doi:10.1016/j.neuroimage.2019.116064", [TOTAL], [CHI], U16,
        scaling=normalisation({"field": NONE}, {"chi": NONE}, mask_after=False), sizes=size(8),
        patching=patches(64, 16), needs_mask=False, domain=AT_3T, source="keras",
    )  # fmt: skip


def sharqnet(found: Found) -> Values:
    return card(
        "sharqnet", "background", "SHARQnet: U-Net trained on synthetic background fields",
        "Bollmann et al., Z Med Phys 29:139, 2019, doi:10.1016/j.zemedi.2019.01.001", [TOTAL],
        [port("local", "local_field", "ppm")], U16,
        scaling=normalisation({"field": NONE}, {"local": NONE}), sizes=size(16), needs_mask=False,
    )  # fmt: skip


def bfrnet(found: Found) -> Values:
    return card(
        "bfrnet", "background", "BFRnet: octave-convolution U-Net for the background field",
        "Zhu et al., Z Med Phys 33:578, 2023, doi:10.1016/j.zemedi.2022.08.001", [TOTAL],
        [port("background", "background_field", "ppm")], 1436.0,
        scaling=normalisation({"field": NONE}, {"background": NONE}), sizes=size(8), domain=AT_3T,
    )  # fmt: skip


def _iqsm(name: str, title: str, citation: str, b0: str, angle_deg: list[float] | None, extra: list[Values]) -> Values:
    return card(
        name, "phase_to_chi", title, citation,
        [
            port("phase", "wrapped_phase", "rad", sign=-1), port("mask", "mask", "1"),
            port("echo_time", "echo_time", "s", ""), port("b0", "b0", "T", ""), *extra,
        ],
        [CHI], 427.0, scaling=normalisation({"phase": NONE}, {"chi": NONE}), sizes=size(16), erode_mm=3.0,
        geometry={"voxel_mm": MM1, "tolerance": 0.05, "resample": "fourier", "b0": b0},
        combine="magnitude_te2", domain={"voxel_mm": [1.0, 1.0], "angle_deg": angle_deg},
    )  # fmt: skip


def iqsm(found: Found) -> Values:
    title = "iQSM: learned Laplacians of the phase factor and a U-Net"
    citation = "Gao et al., NeuroImage 259:119410, 2022, doi:10.1016/j.neuroimage.2022.119410"
    return _iqsm("iqsm", title, citation, "require_z", [0.0, 0.0], [])


def iqsm_plus(found: Found) -> Values:
    title = "iQSM+: iQSM with the direction of B0 in every convolution"
    citation = "Gao et al., Medical Image Analysis 94:103160, 2024, doi:10.1016/j.media.2024.103160"
    return _iqsm("iqsm_plus", title, citation, "input_vector", None, [port("b0_dir", "b0_dir", "1", "nc")])


def unwrap_birnn(found: Found) -> Values:
    return card(
        "unwrap_birnn", "unwrap", "Bidirectional-recurrent phase unwrapping, slice by slice",
        "Ryu et al., Development of a deep learning method for phase unwrapping MR images, ISMRM 27:4707, 2019",
        [port("phase", "wrapped_phase", "rad")], [port("unwrapped", "unwrapped_phase", "rad")], U32,
        scaling=normalisation({"phase": NONE}, {"unwrapped": NONE}), sizes=size(4), needs_mask=False,
        geometry={"voxel_mm": None, "tolerance": 0.0, "resample": "none", "b0": "any"},
    )  # fmt: skip
