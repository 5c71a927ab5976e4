"""Versions that share the requests of an alias, and which of them gets a request."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from prompt_store import names
from prompt_store.errors import PromptStoreError

MAX_VERSIONS = 10
MIN_WEIGHT = 1e-6
SUM_TOLERANCE = 1e-6

Version = Annotated[names.Version, Field(strict=True)]


class InvalidSplitError(PromptStoreError):
    """Versions and weights that no requests can be split by.

    Attributes:
        field: The value at fault.
        limit: What it may be at most, at least, or has to be; None if no number says what is wrong.
    """

    def __init__(self, message: str, *, limit: float | None = None) -> None:
        super().__init__(message)
        self.field = "versions"
        self.limit = limit


class Share(BaseModel):
    """A version and the probability with which a request is its own, above 0 up to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    weight: Annotated[float, Field(strict=True, ge=MIN_WEIGHT, le=1, allow_inf_nan=False)]


class Split(BaseModel):
    """Distinct versions, ascending, with weights that sum to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: tuple[Share, ...]

    @classmethod
    def only(cls, version: int) -> Self:
        """Every request for one version."""
        return cls(shares=(Share(version=version, weight=1.0),))

    @classmethod
    def of(cls, shares: Sequence[Share]) -> Self:
        """Order the shares, and divide by their sum what it differs from 1 by rounding.

        A sum that differs by more is refused rather than scaled: 0.9 and 0.01 is a slip of the
        pen, and would send nine times fewer requests to the second version than was meant.

        Raises:
            InvalidSplitError: None or more than 10 versions, a version twice, or weights whose
                sum is off by more than 1e-6.
        """
        if not 1 <= len(shares) <= MAX_VERSIONS:
            raise InvalidSplitError(
                f"{len(shares)} versions; expected 1 to {MAX_VERSIONS}", limit=MAX_VERSIONS
            )
        weights = {share.version: share.weight for share in shares}
        if len(weights) < len(shares):
            twice = [share.version for share in shares]
            raise InvalidSplitError(f"versions {twice} repeat one; each may be given once")
        total = math.fsum(weights.values())
        if abs(total - 1) > SUM_TOLERANCE:
            raise InvalidSplitError(
                f"the weights sum to {total:.9g}; they must sum to 1 within {SUM_TOLERANCE:g}",
                limit=1,
            )
        return cls(
            shares=tuple(Share(version=v, weight=weights[v] / total) for v in sorted(weights))
        )

    @property
    def weights(self) -> dict[int, float]:
        """Weight by version, ascending."""
        return {share.version: share.weight for share in self.shares}

    @property
    def version(self) -> int | None:
        """The version, if there is only one."""
        return self.shares[0].version if len(self.shares) == 1 else None


def drawn_version(weights: Mapping[int, float], uniform: float) -> int:
    """Return the version that a draw falls on.

    Args:
        weights: By version, summing to 1.
        uniform: At least 0, below 1.
    """
    below = 0.0
    for version, weight in weights.items():
        below += weight
        if uniform < below:
            return version
    return max(weights)  # the sum was rounded down


def keyed_version(weights: Mapping[int, float], salt: str, key: str) -> int:
    """Return the version that a key belongs to: the same as long as the weights are the same.

    Weighted rendezvous hashing: each version draws -ln(u) / w, with u in (0, 1) from a hash of
    salt, version and key, and the least draw wins. Draws are exponential with rate w, so that
    a version wins with probability w, and a change of the weights moves no key between two
    versions whose ratio it leaves alone.

    Args:
        weights: By version, summing to 1.
        salt: Makes assignments under different names independent of each other.
        key: Whose requests stay together.
    """
    return min(
        weights, key=lambda version: -math.log(_uniform(salt, version, key)) / weights[version]
    )


def _uniform(salt: str, version: int, key: str) -> float:
    """A number in (0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{salt}\n{version}\n{key}".encode()).digest()
    return (int.from_bytes(digest[:6]) + 0.5) / 2**48
