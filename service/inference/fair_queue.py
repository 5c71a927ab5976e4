"""Whose turn it is: the one that has been served least.

Start-time fair queueing (Goyal, Vin and Cheng 1996) with equal weights: everyone who waits is
served alike, whatever they have queued, so a busy ensemble cannot keep the others waiting. One that
comes back after a pause starts level with the one served last: idling earns no credit.
"""

import heapq
from collections import Counter, deque
from itertools import count
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What can be queued."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants it any more; it is skipped, uncharged."""
        ...


T = TypeVar("T", bound=Waiting)

_STALE_ENTRIES = 64
"""Entries of the heap that may be out of date before they are cleared."""


class FairQueue(Generic[T]):
    """First in first out for each tenant, least served first among them. Not thread-safe.

    A tenant is whoever shares with the others: an artifact, an ensemble.

    Args:
        served: How much each tenant has been served; queues may share it, so that a tenant that
            waits in several of them has one account.
    """

    def __init__(self, served: dict[str, float] | None = None) -> None:
        self._items: dict[str, deque[T]] = {}
        self._served = {} if served is None else served
        # (served, tie breaker, tenant); `served` is out of date where another queue has charged.
        self._heap: list[tuple[float, int, str]] = []
        self._ties = count()
        # Tie breaker of the latest entry in the heap of each tenant that waits.
        self._entries: dict[str, int] = {}

    def push(self, item: T, tenant: str, level: float) -> None:
        """Queue an item; a tenant new to the queue starts at `level` served."""
        self._drop_cancelled(tenant)  # or they would pile up while nobody takes anything
        items = self._items.setdefault(tenant, deque())
        if not items:
            self._served[tenant] = max(self._served.get(tenant, 0.0), level)
            self._enter(tenant)
        items.append(item)

    @property
    def least_served(self) -> float | None:
        """What the tenant whose turn it is has been served; None when nothing waits."""
        while self._heap:
            served, tie, tenant = self._heap[0]
            self._drop_cancelled(tenant)
            is_latest = tie == self._entries.get(tenant)
            if is_latest and served == self._served[tenant]:
                return served
            heapq.heappop(self._heap)
            if is_latest:
                self._enter(tenant)
        return None

    def has(self, tenant: str) -> bool:
        """Whether a tenant has items here; some may be cancelled."""
        return tenant in self._items

    @property
    def num_waiting(self) -> int:
        """Items that wait; looks at each of them."""
        return self.waiting().total()

    def waiting(self) -> Counter[str]:
        """How many items of each tenant wait; looks at each of them."""
        return Counter(
            tenant for tenant, items in self._items.items() for item in items if not item.cancelled
        )

    def pop(self, cost: float = 1.0) -> tuple[str, T]:
        """Take the next item and charge its tenant; right after `least_served` named one."""
        tenant = self._heap[0][2]
        item = self._items[tenant].popleft()
        self._forget_if_empty(tenant)
        if cost:
            self.charge(tenant, cost)
        return tenant, item

    def charge(self, tenant: str, cost: float) -> None:
        """Count more, or less, as served to a tenant: for a cost that is known only afterwards."""
        self._served[tenant] = self._served.get(tenant, 0.0) + cost
        if tenant in self._items:
            self._enter(tenant)

    def _drop_cancelled(self, tenant: str) -> None:
        items = self._items.get(tenant)
        while items and items[0].cancelled:
            items.popleft()
        self._forget_if_empty(tenant)

    def _forget_if_empty(self, tenant: str) -> None:
        """Keep nothing of a tenant that does not wait but its account."""
        if not self._items.get(tenant):
            self._items.pop(tenant, None)
            self._entries.pop(tenant, None)

    def _enter(self, tenant: str) -> None:
        if len(self._heap) > 2 * len(self._entries) + _STALE_ENTRIES:
            self._heap = [each for each in self._heap if each[1] == self._entries.get(each[2])]
            heapq.heapify(self._heap)
        tie = self._entries[tenant] = next(self._ties)
        heapq.heappush(self._heap, (self._served[tenant], tie, tenant))
