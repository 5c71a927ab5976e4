"""Requests by the version that an alias assigned them to, in a bounded number of time series."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter

from prompt_store.names import AliasReference

MAX_ALIASES = 200
MAX_VERSIONS_OF_ALIAS = 10
IDLE_S = 3600.0
OTHER = "(other)"


@dataclass
class _Counted:
    last_s: float
    versions: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])


class AliasMetrics:
    """Counts requests by alias and version. Used on one thread only.

    Names and versions keep coming, and each would be a time series for ever. So an alias keeps
    the series of the ten versions that it used last, as many as it can be split between. An alias
    beyond the first 200 takes the place of one that was not used for an hour; while there is none,
    its requests are counted together with those of others like it.

    Args:
        registry: Where the metric is registered.
        clock: Monotonic seconds.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = Counter(
            "hgprompt_alias_requests",
            "Classification requests by alias and the version that they were assigned to",
            ["alias", "version"],
            registry=registry,
        )
        self._clock = clock
        self._counted: OrderedDict[str, _Counted] = OrderedDict()  # least recently used first

    def count(self, reference: AliasReference, version: int) -> None:
        """Record one request."""
        alias, now_s = str(reference), self._clock()
        if alias not in self._counted and not self._make_room(now_s):
            self._requests.labels(OTHER, OTHER).inc()
            return
        counted = self._counted.setdefault(alias, _Counted(now_s))
        self._counted.move_to_end(alias)
        counted.last_s = now_s
        counted.versions[version] = None
        counted.versions.move_to_end(version)
        if len(counted.versions) > MAX_VERSIONS_OF_ALIAS:
            gone, _ = counted.versions.popitem(last=False)
            self._requests.remove(alias, str(gone))
        self._requests.labels(alias, str(version)).inc()

    def _make_room(self, now_s: float) -> bool:
        """Return whether another alias may be counted by its name."""
        if len(self._counted) < MAX_ALIASES:
            return True
        alias, oldest = next(iter(self._counted.items()))
        if now_s - oldest.last_s < IDLE_S:
            return False
        del self._counted[alias]
        for version in oldest.versions:
            self._requests.remove(alias, str(version))
        return True
