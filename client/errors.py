class ClientError(Exception):
    """Base of what this package raises on purpose; its text is one line fit for a terminal."""


class ServiceUnreachableError(ClientError):
    """No answer came from the service, also after repeating the request."""


class UnexpectedReplyError(ClientError):
    """The service answered with something that does not follow the contract."""


class ProblemError(ClientError):
    """The service refused a request (RFC 9457 problem details).

    Attributes:
        type: Stable URI of the kind of problem.
        title: The kind of problem in words.
        detail: What is wrong with this request, or None.
        status: HTTP status code.
    """

    def __init__(self, *, type: str, title: str, detail: str | None, status: int) -> None:  # noqa: A002  RFC 9457 names the field
        super().__init__(f"{title}: {detail}" if detail else f"{title} (HTTP {status})")
        self.type = type
        self.title = title
        self.detail = detail
        self.status = status


class AliasMovedError(ProblemError):
    """An alias was not changed, because it does not stand as the caller expects it to."""


class FitFailedError(ClientError):
    """A fit ended, but not with an artifact."""


class StartError(ClientError):
    """A process of the local service could not be started or did not stay up."""


class StopRequestedError(ClientError):
    """The user asked to stop while something was still starting."""
