"""Errors a user can act on: each says what is wrong and what to do, and stays a standard error too."""


class QsmError(Exception):
    """Base of every error raised on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 5


class UsageError(QsmError, ValueError):
    """An option, method or recipe that does not exist or is out of range."""

    exit_code = 2


class InputError(QsmError, ValueError):
    """Input that cannot be read, or whose parts do not fit together."""

    exit_code = 3


class ShapeError(InputError):
    """Arrays whose shapes do not match."""


class MetadataError(QsmError, ValueError):
    """Echo times, field strength, phase scaling or orientation missing or ambiguous."""

    exit_code = 4


class ReconstructionError(QsmError, RuntimeError):
    """A stage could not make a trustworthy result from valid input."""

    exit_code = 5


class OutputError(QsmError, OSError):
    """A result could not be written; nothing half-written is left behind."""

    exit_code = 5


class ModelError(QsmError, ValueError):
    """A network whose card, file or tensors are missing, damaged or do not fit one another."""

    exit_code = 6


class DeviceError(QsmError, RuntimeError):
    """A device or provider that was asked for and cannot run here."""

    exit_code = 7


class QsmWarning(UserWarning):
    """A result that stands, made in another way than asked or of doubtful quality: the message says why."""
