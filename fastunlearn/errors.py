"""The exceptions that fastunlearn raises. Each message names the argument at fault and the mend."""

__all__ = [
    "BackendUnavailableError",
    "DerivativeOrderError",
    "DivergedError",
    "FastUnlearnError",
    "InvalidInputError",
    "ModelFolderError",
    "NotPositiveDefiniteError",
    "OutputError",
    "UnknownMethodError",
]


class FastUnlearnError(Exception):
    """Base of all errors that fastunlearn raises on purpose."""


class InvalidInputError(FastUnlearnError, ValueError):
    """An argument is empty, of the wrong shape, dtype or range, or holds NaN."""


class UnknownMethodError(InvalidInputError):
    """A method was asked for by a name that is not registered; the message lists the known names."""


class NotPositiveDefiniteError(FastUnlearnError, ArithmeticError):
    """A damped curvature matrix (or a down-date of one) is not positive definite, so it has no
    inverse that a Newton step may use. Nothing is computed in its place."""


class ModelFolderError(FastUnlearnError, OSError):
    """A model folder is missing, incomplete, cut short, or not a causal language model."""


class OutputError(FastUnlearnError, OSError):
    """A result could not be written (no space, no permission, already there). Files that were
    there before are as they were."""


class BackendUnavailableError(FastUnlearnError, RuntimeError):
    """A compute backend was asked for by name and is not live; the message says why."""


class DerivativeOrderError(FastUnlearnError, NotImplementedError):
    """A derivative of an order that an op does not have was asked for. A wrong one is never given instead."""


class DivergedError(InvalidInputError):
    """Training or unlearning left the numbers that can be computed with; a smaller learning rate may help."""
