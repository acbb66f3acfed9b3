"""`qsm send`: images to a server, as a scanner would."""

import typer

from qsm_runtime.cli import send_dicom, send_mrd

app = typer.Typer(help="Send images to a DICOM node or an MRD server, as a scanner would.", rich_markup_mode=None)
app.command("dicom")(send_dicom.dicom)
app.command("mrd")(send_mrd.mrd)
