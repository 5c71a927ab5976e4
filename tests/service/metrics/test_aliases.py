import pytest
from prometheus_client import CollectorRegistry

from prompt_store.names import AliasReference
from service.metrics.aliases import (
    IDLE_S,
    MAX_ALIASES,
    MAX_VERSIONS_OF_ALIAS,
    AliasMetrics,
)


class Clock:
    """Monotonic seconds that a test sets forward."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry, clock: Clock) -> AliasMetrics:
    return AliasMetrics(registry, clock=clock)


def counts(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["alias"], sample.labels["version"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "hgprompt_alias_requests_total"
    }


def test_requests_are_counted_by_alias_and_version(
    metrics: AliasMetrics, registry: CollectorRegistry
) -> None:
    prod, next_ = AliasReference("zoo", "prod"), AliasReference("zoo", "next")
    for reference, version in ((prod, 1), (prod, 2), (prod, 2), (next_, 2)):
        metrics.count(reference, version)
    assert counts(registry) == {
        ("zoo@prod", "1"): 1,
        ("zoo@prod", "2"): 2,
        ("zoo@next", "2"): 1,
    }


def test_an_alias_keeps_the_versions_that_it_used_last(
    metrics: AliasMetrics, registry: CollectorRegistry
) -> None:
    for version in range(1, 1001):
        metrics.count(AliasReference("zoo", "prod"), 1)
        metrics.count(AliasReference("zoo", "prod"), version)
    found = counts(registry)
    assert len(found) == MAX_VERSIONS_OF_ALIAS
    assert found["zoo@prod", "1"] == 1001
    assert found["zoo@prod", "1000"] == 1


def test_aliases_beyond_the_limit_are_counted_together_until_another_was_long_idle(
    metrics: AliasMetrics, registry: CollectorRegistry, clock: Clock
) -> None:
    for i in range(2 * MAX_ALIASES):
        metrics.count(AliasReference("zoo", f"a{i}"), 1)
    found = counts(registry)
    assert len(found) == MAX_ALIASES + 1
    assert found["(other)", "(other)"] == MAX_ALIASES
    clock.now_s = IDLE_S - 1
    metrics.count(AliasReference("zoo", "a0"), 1)
    clock.now_s = IDLE_S
    metrics.count(AliasReference("zoo", "late"), 7)
    found = counts(registry)
    assert len(found) == MAX_ALIASES + 1
    assert found["zoo@late", "7"] == 1
    assert found["zoo@a0", "1"] == 2
    assert ("zoo@a1", "1") not in found
