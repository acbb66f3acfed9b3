"""`qsm compare` and `qsm picture`: maps against each other, and maps to look at."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsm_runtime.cli import options
from qsm_runtime.cli.output import print_json, print_table
from qsm_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from qsm_runtime.io import Map

AFFINE_TOLERANCE_MM = 0.01


def compare(
    recon: Annotated[Path, typer.Argument(metavar="MAP", help="The map to be judged, in ppm.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="What it should be, in ppm.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Default: where TRUTH is not zero.")
    ] = None,
    valid: Annotated[
        Path | None, typer.Option("--valid", metavar="FILE", help="Where MAP counts. Default: where it is not zero.")
    ] = None,
    seg: Annotated[
        Path | None, typer.Option("--seg", metavar="FILE", help="Labels, for deep-grey slope and lesions.")
    ] = None,
    field: Annotated[bool, typer.Option("--field", help="Fields: a constant is removed first.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="PNG of both and their difference.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Score a map against another one."""
    import numpy as np

    from qsm_runtime import io
    from qsm_runtime.metrics import score, score_field

    if field and seg is not None:
        raise UsageError("--seg holds regions of susceptibility; it has no meaning with --field")
    if picture is not None:
        _check_png(picture, (recon, truth), overwrite)
    first, second = _read_maps([recon, truth])
    inside = second.array != 0 if mask is None else io.read_mask(mask, like=truth)[0]
    counts = None if valid is None else io.read_mask(valid, like=recon)[0]
    if field:
        scores = score_field(first.array, second.array, inside, valid=counts)
    else:
        labels = None if seg is None else np.rint(_read_maps([truth, seg])[1].array).astype(np.int32)
        scores = score(first.array, second.array, inside, valid=counts, labels=labels)
    figures = {name: value for name, value in asdict(scores).items() if value is not None}
    outputs = []
    if picture is not None:
        from qsm_runtime.report.picture import CHI_WINDOW_PPM, comparison, symmetric_window

        shown, limits = first.array, CHI_WINDOW_PPM
        if field:  # known up to a constant
            known = inside & (shown != 0)
            shown = np.where(known, shown - np.median((shown - second.array)[known]), np.float32(0))
            limits = symmetric_window(second.array, inside)
        png = comparison(shown, second.array, inside, first.placement.affine, (recon.name, truth.name), limits)
        io.write_files({picture: [png]}, inputs=(recon, truth), overwrite=overwrite)
        outputs.append(picture)
    if as_json:
        print_json({"map": recon, "truth": truth, "scores": figures, "outputs": outputs})
        return 0
    print_table([(name, f"{v:d}" if isinstance(v, int) else f"{v:.4f}") for name, v in figures.items()])
    for path in outputs:
        print(path)
    return 0


def picture(
    maps: Annotated[list[Path], typer.Argument(metavar="MAP...", help="Maps on one grid, a row each.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A .png file.")] = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="LOW,HIGH", help="Values that are black and white.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="FILE", help="Show what is inside. Default: where MAPs are not zero."),
    ] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT")] = "",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Mid-slices of maps as a PNG: axial, coronal, sagittal."""
    if output is None:
        raise UsageError("no output: give a .png file with -o")
    from qsm_runtime import io
    from qsm_runtime.report.picture import CHI_WINDOW_PPM, Row, slices_png

    limits = options.numbers(window, "--window", 2)
    if limits is not None and limits[0] >= limits[1]:
        raise UsageError(f"--window takes the lower value first, got {window}")
    _check_png(output, maps, overwrite)
    found = _read_maps(maps)
    if mask is not None:
        inside = io.read_mask(mask, like=maps[0])[0]
    else:
        inside = found[0].array != 0
        for one in found[1:]:
            inside = inside | (one.array != 0)
    rows = []
    for one in found:
        chosen = limits
        if chosen is None and one.path.name.endswith(("_Chimap.nii.gz", "_Chimap.nii")):
            chosen = CHI_WINDOW_PPM
        unit = str(one.meta.get("Units", ""))
        shown = inside if mask is not None else one.array != 0
        rows.append(Row(one.array, one.path.name, unit, (chosen[0], chosen[1]) if chosen else None, inside=shown))
    png = slices_png(rows, found[0].placement.affine, inside, title)
    io.write_files({output: [png]}, inputs=maps, overwrite=overwrite)
    if as_json:
        print_json({"outputs": [output]})
    elif not quiet:
        print(output)
    return 0


def _read_maps(paths: list[Path]) -> "list[Map]":
    """Maps that lie on one grid. Raises InputError where they do not."""
    import numpy as np

    from qsm_runtime import io

    maps = [io.read_map(path) for path in paths]
    for other in maps[1:]:
        if other.grid.shape != maps[0].grid.shape:
            raise InputError(f"{other.path}: shape {other.grid.shape}, but {paths[0]} has {maps[0].grid.shape}")
        if np.abs(other.placement.affine - maps[0].placement.affine).max() > AFFINE_TOLERANCE_MM:
            raise InputError(f"{other.path} and {paths[0]} lie in different places (affine); resample one of them")
    return maps


def _check_png(path: Path, inputs: "list[Path] | tuple[Path, ...]", overwrite: bool) -> None:
    from qsm_runtime.io.atomic import check_writable

    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: give a name that ends in .png")
    check_writable([path], inputs, overwrite)
