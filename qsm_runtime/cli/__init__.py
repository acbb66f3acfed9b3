"""The command line `qsm`. Each command loads, makes one library call and saves; heavy imports wait until one runs."""

from qsm_runtime.cli.app import main

__all__ = ["main"]
