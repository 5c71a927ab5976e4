"""What can go wrong between a front and the engine's process, apart from the work itself."""


class RemoteEngineError(Exception):
    """Base of all errors of this package that are not answers to an image."""


class ProtocolError(RemoteEngineError):
    """The other side sent what it may not send; its connection is closed."""


class UnexpectedFailureError(RemoteEngineError):
    """The engine's process failed in a way that has no name; its log has the details."""
