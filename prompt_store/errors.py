"""Every error that this package raises, under one base class."""


class PromptStoreError(Exception):
    """Base of all errors of `prompt_store`."""


class InvalidPromptError(PromptStoreError):
    """A prompt or artifact file was refused; nothing of it was stored.

    Attributes:
        field: The part of the file at fault, such as `prompt_embeddings` or `header`.
        limit: The limit that was exceeded, None where the fault is not one of size.
    """

    def __init__(self, message: str, *, field: str, limit: float | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class PromptTooLargeError(InvalidPromptError):
    """A file exceeds the limit on its total size."""


class DigestMismatchError(PromptStoreError):
    """Bytes do not have the digest under which they were given or stored."""


class CorruptDocumentError(PromptStoreError):
    """A stored document cannot be read back as what it should be."""


class UnknownDocumentError(CorruptDocumentError):
    """A stored document is JSON, but has another form; a newer version may have written it."""


class NotFoundError(PromptStoreError):
    """No such name, version, digest or key, or it has been deleted."""


class ConflictError(PromptStoreError):
    """The request contradicts what is stored, or too many writers raced for one name."""


class PreconditionFailedError(PromptStoreError):
    """What is stored is not what the writer said it would replace; nothing was changed.

    Attributes:
        current: What tells the present state from others, the number of an alias's last move or the
            digest of a name's latest version; None if there is nothing.
    """

    def __init__(self, message: str, *, current: int | str | None) -> None:
        super().__init__(message)
        self.current = current


class NameInvalidError(PromptStoreError):
    """A name, reference, digest, key or cursor is not well formed."""


class StoreUnavailableError(PromptStoreError):
    """The object store cannot be reached, or cannot keep what this package promises."""


class StoreFullError(StoreUnavailableError):
    """The object store has no room left; nothing of the write is visible."""


class IdempotencyMismatchError(PromptStoreError):
    """An idempotency key came back with another request than the first time."""


class IdempotencyInProgressError(PromptStoreError):
    """The first request with this idempotency key has not been answered yet.

    Attributes:
        retry_after_s: When to ask again; one that was lost is taken over after some time.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
