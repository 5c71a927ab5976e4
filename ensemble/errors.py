"""Errors of the mathematics; each message names the offending value and the limit."""


class EnsembleError(ValueError):
    """Base of all errors raised by this package."""


class UnsupportedBackboneError(EnsembleError):
    """The model is not a Vision Transformer that can carry prompt tokens."""


class ShapeError(EnsembleError):
    """Tensors whose shapes do not fit each other."""


class NonFiniteError(EnsembleError):
    """A NaN or an infinity where a finite value is needed."""


class DegenerateFeaturesError(EnsembleError):
    """Features or labels from which the score is not defined."""


class TooFewImagesError(EnsembleError):
    """Too few labelled images for the split that was asked for."""


class FitStoppedError(EnsembleError):
    """The caller's stop flag was raised between two steps."""


class OptionsError(EnsembleError):
    """The options of a fit make no sense for its method."""
