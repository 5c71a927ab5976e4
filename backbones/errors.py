"""Errors of finding, fetching and loading a backbone."""


class BackboneError(Exception):
    """Base of all errors raised by this package."""


class BackboneSpecError(BackboneError):
    """The setting does not name a backbone this package can load."""


class WeightsFetchError(BackboneError):
    """The weights could not be fetched or are not the bytes that were expected."""


class DeviceUnavailableError(BackboneError):
    """The device that was asked for is not on this machine."""
