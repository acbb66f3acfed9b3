"""`qsm serve`: front ends for scanners and consoles, each around one warm core."""

import typer

from qsm_runtime.cli import serve_dicom, serve_mrd, serve_watch

app = typer.Typer(
    help="Serve a scanner: DICOM node, MRD server, or a watched folder, around one warm core.", rich_markup_mode=None
)
app.command("dicom")(serve_dicom.dicom)
app.command("mrd")(serve_mrd.mrd)
app.command("watch")(serve_watch.watch)
