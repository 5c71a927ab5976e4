"""The typed HTTP client and the command line. Imports none of the other packages."""

from client.api import Client
from client.errors import ClientError, ProblemError, ServiceUnreachableError

__all__ = ["Client", "ClientError", "ProblemError", "ServiceUnreachableError"]
