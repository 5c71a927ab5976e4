"""The Grafana dashboard asks for metrics that exist, and Compose accepts what shows it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

OBSERVED = ("docker-compose.yml", "docker/compose.observability.yaml")
DOCUMENTED = re.compile(r"^\| `(hgprompt_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
SAMPLES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
LABELS_OF_SAMPLE = {"_bucket": {"le"}}
OF_PROMETHEUS = {"job", "instance", "process"}
"""Labels that no metric of ours has to have: `process` says which process of a host it was."""


def parsed(expression: str) -> promql_parser.Expr:
    return promql_parser.parse(expression.replace("$__rate_interval", "1m"))


def parts(expression: Any) -> list[Any]:
    """The expressions that another is made of."""
    found: list[Any] = list(getattr(expression, "args", []))
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        found += [getattr(expression, name)] if hasattr(expression, name) else []
    return found


def names_in(expression: Any) -> set[str]:
    if isinstance(expression, promql_parser.VectorSelector):
        return {expression.name}
    return set().union(*map(names_in, parts(expression)))


def labels_given(expression: Any, labels_of: dict[str, set[str]]) -> set[str]:
    """The labels that the series of an expression have; those that it asks for must be there."""
    if isinstance(expression, promql_parser.VectorSelector):
        given = labels_of[expression.name] | OF_PROMETHEUS
        assert {each.name for each in expression.matchers.matchers} <= given, expression.name
        assert not expression.matchers.or_matchers
        return given
    inner = [labels_given(part, labels_of) for part in parts(expression)]
    given = set().union(*inner)
    if isinstance(expression, promql_parser.AggregateExpr):
        modifier = expression.modifier
        named = set(modifier.labels) if modifier else set()
        assert named <= given, named
        is_without = modifier and modifier.type == promql_parser.AggModifierType.Without
        return given - named if is_without else named
    if isinstance(expression, promql_parser.BinaryExpr):
        assert expression.modifier is None or not expression.modifier.matching
        return set.intersection(*inner) if str(expression.op) != "or" else given
    if isinstance(expression, promql_parser.Call) and expression.func.name == "histogram_quantile":
        assert "le" in given, "a quantile of no histogram"
        return given - {"le"}
    return given


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    return json.loads((root / "docker/grafana/hgprompt.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    assert not any(row.get("panels") for row in rows)  # a row that is closed holds its panels
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels_of(root: Path) -> dict[str, set[str]]:
    """Labels by the name of each sample; another test compares the page with real scrapes."""
    page = (root / "docs/metrics.md").read_text()
    found = {
        f"{name}{suffix}": set(re.findall(r"`(\w+)`", labels)) | LABELS_OF_SAMPLE.get(suffix, set())
        for name, kind, labels in DOCUMENTED.findall(page)
        for suffix in SAMPLES[kind]
    }
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return found | {s.name: set() for metric in registry.collect() for s in metric.samples}


def test_every_metric_of_a_panel_exists(
    expressions: list[str], labels_of: dict[str, set[str]]
) -> None:
    assert len(expressions) > 20
    for expression in expressions:
        names = names_in(parsed(expression))
        assert names, expression
        assert names <= labels_of.keys(), expression


def test_every_label_of_a_panel_exists(
    panels: list[dict[str, Any]], labels_of: dict[str, set[str]]
) -> None:
    for panel in panels:
        for target in panel["targets"]:
            given = labels_given(parsed(target["expr"]), labels_of)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= given, panel["title"]


@pytest.mark.parametrize(
    "expression",
    [
        "sum by (reason) (hgprompt_requests_total) / sum(hgprompt_refused_requests_total)",
        'sum(hgprompt_requests_total{reason="x"}) / sum(hgprompt_refused_requests_total)',
        "sum by(nothing) (hgprompt_queue_depth)",
        "sum without (nothing) (hgprompt_queue_depth)",
        "sum by (status) (sum by (route) (hgprompt_requests_total))",
        "histogram_quantile(0.5, sum(rate(hgprompt_queue_seconds_bucket[1m])))",
        "histogram_quantile(0.5, sum by (le) (rate(hgprompt_queue_seconds_sum[1m])))",
        "sum(hgprompt_queue_depth) + sum(hgpromt_body_bytes)",
    ],
)
def test_what_does_not_exist_is_noticed(expression: str, labels_of: dict[str, set[str]]) -> None:
    """The two tests above, on expressions that are wrong in one place."""
    with pytest.raises((AssertionError, KeyError)):
        labels_given(parsed(expression), labels_of)


def test_every_expression_is_promql(expressions: list[str]) -> None:
    for expression in expressions:
        assert isinstance(parsed(expression), promql_parser.Expr), expression


def test_every_metric_is_on_the_dashboard(expressions: list[str], root: Path) -> None:
    shown = {name for expression in expressions for name in names_in(parsed(expression))}
    for name, kind, _ in DOCUMENTED.findall((root / "docs/metrics.md").read_text()):
        assert {f"{name}{suffix}" for suffix in SAMPLES[kind]} & shown, name


CLASSIFICATION = (
    "/v1/ensembles/{reference}/classify",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
)
NOT_TIMED = ("/v1/ensembles/{name}/events", "/metrics", "/livez", "/readyz")
OTHERS = ("/v1/prompts", "/v1/ensembles/{name}", "/v2/models/{model}", "/v2", "(unmatched)")


def shows(expression: str, route: str) -> bool:
    """Whether a query takes a route's series; Prometheus anchors its patterns."""
    negated, pattern = re.search(r'route([=!])~"([^"]*)"', expression).groups()
    return bool(re.fullmatch(pattern, route)) == (negated == "=")


def test_times_of_classifications_are_those_of_every_route_that_classifies(
    panels: list[dict[str, Any]],
) -> None:
    asked = {panel["title"]: [t["expr"] for t in panel["targets"]] for panel in panels}
    for expression in asked["Time to answer a classification"]:
        assert all(shows(expression, route) for route in CLASSIFICATION)
        assert not any(shows(expression, route) for route in (*OTHERS, *NOT_TIMED))
    (others,) = asked["Time to answer, other routes"]
    assert all(shows(others, route) for route in OTHERS)
    assert not any(shows(others, route) for route in (*CLASSIFICATION, *NOT_TIMED))


def test_panels_have_their_own_ids_and_places(panels: list[dict[str, Any]]) -> None:
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@pytest.fixture(scope="module")
def observed(compose_config: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return compose_config(OBSERVED)["services"]


def test_compose_accepts_the_files_without_a_warning(compose: Any) -> None:
    done = compose(OBSERVED, "config", "--quiet", HGPROMPT_REDIS_PASSWORD="secret")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_they_are_unprivileged_watched_and_pinned(observed: dict[str, Any], name: str) -> None:
    service = observed[name]
    assert int(service["user"].partition(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}


def test_what_is_mounted_is_there(observed: dict[str, Any], root: Path) -> None:
    for name in ("prometheus", "grafana"):
        for mount in observed[name]["volumes"]:
            if mount["type"] == "bind":
                assert Path(mount["source"]).is_relative_to(root)
                assert Path(mount["source"]).exists(), mount
                assert mount["read_only"] is True


def test_prometheus_asks_every_process_on_its_port(observed: dict[str, Any], root: Path) -> None:
    asked = (root / "docker/prometheus/prometheus.yaml").read_text()
    for name in ("api", "classifier"):
        assert f"{name}:{observed[name]['environment']['HGPROMPT_PORT']}" in asked
        assert "backend" in observed[name]["networks"]
    worker = observed["worker"]["environment"]
    assert f"names: [worker], type: A, port: {worker['HGPROMPT_WORKER_METRICS_PORT']}" in asked
    assert "ports" not in observed["worker"]
