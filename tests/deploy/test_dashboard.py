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
METRIC = re.compile(r"\b((?:hgprompt|process)_\w+)")
DOCUMENTED = re.compile(r"^\| `(hgprompt_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
SAMPLES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
OF_PROMETHEUS = {"le", "job", "instance", "process"}
"""Labels that no metric of ours has to have: `process` says which process of a host it was."""


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    return json.loads((root / "docker/grafana/hgprompt.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels_of(root: Path) -> dict[str, set[str]]:
    """Labels by the name of each sample; another test compares the page with real scrapes."""
    page = (root / "docs/metrics.md").read_text()
    found = {
        f"{name}{suffix}": set(re.findall(r"`(\w+)`", labels))
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
        names = METRIC.findall(expression)
        assert names, expression
        assert set(names) <= labels_of.keys(), expression


def test_every_label_of_a_panel_exists(
    panels: list[dict[str, Any]], labels_of: dict[str, set[str]]
) -> None:
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"]
            known = OF_PROMETHEUS.union(*(labels_of[n] for n in METRIC.findall(expression)))
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for group in re.findall(r"by \(([^)]*)\)", expression):
                used |= {label.strip() for label in group.split(",")}
            used |= set(re.findall(r'(\w+)[=!]~?"', expression))
            assert used <= known, panel["title"]


def test_every_expression_is_promql(expressions: list[str]) -> None:
    for expression in expressions:
        parsed = promql_parser.parse(expression.replace("$__rate_interval", "1m"))
        assert isinstance(parsed, promql_parser.Expr), expression


def test_every_metric_is_on_the_dashboard(expressions: list[str], root: Path) -> None:
    shown = {name for expression in expressions for name in METRIC.findall(expression)}
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
