import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from client.up import SERVICE_ENDS_S, WORKER_ENDS_S, grace_s

BASE = ("docker-compose.yml",)
CPU = ("docker-compose.yml", "docker/compose.cpu.yaml")
ON_GPU = {"classifier", "worker"}
ONE_SHOT = {"weights"}


def test_compose_accepts_the_files_without_a_warning(compose: Any, files: tuple[str, ...]) -> None:
    done = compose(files, "config", "--quiet", HGPROMPT_REDIS_PASSWORD="secret")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_starts_without_a_redis_password(compose: Any, files: tuple[str, ...]) -> None:
    done = compose(files, "config", "--quiet")

    assert done.returncode != 0
    assert "HGPROMPT_REDIS_PASSWORD is missing a value" in done.stderr


def test_the_deployment_is_these_services(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "weights", "api", "classifier", "worker"}


def test_the_base_file_reserves_gpus_where_the_backbone_runs(compose_config: Any) -> None:
    services = compose_config(BASE)["services"]
    reserved = {
        name: service["deploy"] for name, service in services.items() if "deploy" in service
    }

    assert set(reserved) == ON_GPU
    for deploy in reserved.values():
        (device,) = deploy["resources"]["reservations"]["devices"]
        assert (device["driver"], device["device_ids"]) == ("nvidia", ["0"])
        assert device["capabilities"] == ["gpu"]


def test_classifier_and_worker_can_have_a_gpu_each(compose: Any) -> None:
    """A count of 1 would be the first GPU for both."""
    chosen = {"HGPROMPT_CLASSIFIER_GPU": "1", "HGPROMPT_WORKER_GPU": "GPU-3faa8298"}
    done = compose(BASE, "config", "--format", "json", HGPROMPT_REDIS_PASSWORD="secret", **chosen)
    services = json.loads(done.stdout)["services"]

    for name, gpu in (("classifier", "1"), ("worker", "GPU-3faa8298")):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == [gpu]


def test_the_cpu_override_changes_the_device_and_what_goes_with_it(compose_config: Any) -> None:
    expected, overridden = (compose_config(files) for files in (BASE, CPU))
    assert expected["services"]["classifier"]["environment"]["HGPROMPT_FRONT_PROCESSES"] == "auto"
    expected["services"]["classifier"]["environment"]["HGPROMPT_FRONT_PROCESSES"] = "1"
    for name in ON_GPU:
        del expected["services"][name]["deploy"]
        assert expected["services"][name]["environment"]["HGPROMPT_DEVICE"] == "cuda"
        expected["services"][name]["environment"]["HGPROMPT_DEVICE"] = "cpu"

    assert overridden["services"] == expected["services"]
    assert overridden["networks"] == expected["networks"]
    assert overridden["volumes"] == expected["volumes"]


def test_every_service_is_unprivileged(services: dict[str, Any]) -> None:
    for name, service in services.items():
        uid, _, gid = service["user"].partition(":")
        assert int(uid) > 0, name
        assert int(gid) > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid"} & set(service), name


def test_every_lasting_service_is_watched_restarted_and_stopped_in_time(
    services: dict[str, Any],
) -> None:
    for name in set(services) - ONE_SHOT:
        service = services[name]
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        assert service["stop_grace_period"], name


@pytest.mark.parametrize(
    ("name", "stages_s"),
    [("api", SERVICE_ENDS_S), ("classifier", SERVICE_ENDS_S), ("worker", WORKER_ENDS_S)],
)
def test_processes_are_killed_only_after_the_time_that_they_may_take_to_end(
    services: dict[str, Any], name: str, stages_s: Sequence[tuple[str, float]]
) -> None:
    service = services[name]
    given = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", service["stop_grace_period"])
    assert given is not None
    minutes, seconds = (int(part or 0) for part in given.groups())

    assert 60 * minutes + seconds > grace_s(service["environment"], stages_s)


def test_processes_wait_for_redis_and_the_weights(services: dict[str, Any]) -> None:
    for name in ("api", "classifier", "worker"):
        conditions = {n: d["condition"] for n, d in services[name]["depends_on"].items()}
        assert conditions == {
            "redis": "service_healthy",
            "weights": "service_completed_successfully",
        }


def test_redis_is_reachable_by_the_deployment_only(compose_config: Any) -> None:
    config = compose_config(BASE)
    redis = config["services"]["redis"]

    assert "ports" not in redis
    assert set(redis["networks"]) == {"backend"}
    assert config["networks"]["backend"]["internal"] is True
    for name in ("api", "classifier", "worker"):
        environment = config["services"][name]["environment"]
        assert environment["HGPROMPT_REDIS_URL"] == "redis://:secret@redis:6379/0"


def test_ports_are_published_on_the_loopback_interface_only(services: dict[str, Any]) -> None:
    published = {
        name: [(port["host_ip"], port["target"]) for port in service["ports"]]
        for name, service in services.items()
        if "ports" in service
    }

    assert published == {"api": [("127.0.0.1", 8000)], "classifier": [("127.0.0.1", 8001)]}
    for name in published:
        environment = services[name]["environment"]
        assert environment["HGPROMPT_ROLE"] == name
        assert environment["HGPROMPT_PORT"] == str(published[name][0][1])


def test_all_processes_agree_on_what_they_share(services: dict[str, Any]) -> None:
    shared = ("HGPROMPT_REDIS_URL", "HGPROMPT_STORE_URL", "HGPROMPT_BACKBONE", "HGPROMPT_PRECISION")
    seen = {
        tuple(services[name]["environment"][key] for key in shared)
        for name in ("api", "classifier", "worker")
    }

    assert len(seen) == 1


def test_one_variable_sends_the_traces_of_all_processes(compose: Any) -> None:
    chosen = {"HGPROMPT_OTLP_ENDPOINT": "http://collector:4318"}
    done = compose(BASE, "config", "--format", "json", HGPROMPT_REDIS_PASSWORD="secret", **chosen)
    services = json.loads(done.stdout)["services"]

    for name in ("api", "classifier", "worker"):
        environment = services[name]["environment"]
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318", name


def test_other_hosts_than_loopback_and_the_services_have_to_be_named(compose: Any) -> None:
    for chosen, expected in (({}, "api,classifier"), ({"HGPROMPT_ALLOWED_HOSTS": "a.b"}, "a.b")):
        done = compose(BASE, "config", "--format", "json", HGPROMPT_REDIS_PASSWORD="x", **chosen)
        services = json.loads(done.stdout)["services"]
        for name in ("api", "classifier"):
            assert services[name]["environment"]["HGPROMPT_ALLOWED_HOSTS"] == expected


@pytest.mark.parametrize("name", ["api", "classifier", "worker"])
def test_the_store_is_writable_and_the_weights_are_not(services: dict[str, Any], name: str) -> None:
    mounts = {mount["target"]: mount for mount in services[name]["volumes"]}

    assert not mounts["/srv/store"].get("read_only")
    assert mounts["/srv/weights"]["read_only"] is True
    assert services[name]["environment"]["HGPROMPT_STORE_URL"] == "file:///srv/store"
    assert services[name]["environment"]["HGPROMPT_CACHE_DIR"] == "/srv/weights"


def test_every_volume_has_a_name(compose_config: Any, files: tuple[str, ...]) -> None:
    """One without a name outlives its container, and nothing finds it again."""
    config = compose_config(files)
    mounts = [m for service in config["services"].values() for m in service.get("volumes", ())]

    assert {m["target"]: m.get("source") for m in mounts} == {
        "/srv/store": "store",
        "/srv/weights": "weights",
        "/srv/scratch": "scratch",
    }
    assert set(config["volumes"]) == {"store", "weights", "scratch"}


def test_foreign_images_are_pinned_to_a_release(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" in service:
            continue
        _, _, tag = service["image"].rpartition(":")
        assert len(tag.partition("-")[0].split(".")) == 3, f"{name}: {service['image']}"
