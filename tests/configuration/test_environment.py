import logging

import pytest
from pydantic import ValidationError

from backbones.settings import BackboneSettings
from configuration.environment import (
    EnvironmentSettings,
    SettingsError,
    warn_of_unknown_variables,
)
from configuration.variables import KNOWN_VARIABLES
from jobs.settings import DeploymentSettings
from service.settings import ServiceSettings
from worker.settings import WorkerSettings

CLASSES: list[type[EnvironmentSettings]] = [
    BackboneSettings,
    DeploymentSettings,
    ServiceSettings,
    WorkerSettings,
]


def variables(settings: type[EnvironmentSettings]) -> set[str]:
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


def test_the_variables_of_all_settings_are_known() -> None:
    of_the_client = {"HGPROMPT_URL", "HGPROMPT_DATA_DIR"}
    assert set().union(*map(variables, CLASSES)) | of_the_client == KNOWN_VARIABLES


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (DeploymentSettings, "HGPROMPT_REDIS_URL", "redis//:hunter2@h:6379/0"),
        (DeploymentSettings, "HGPROMPT_REDIS_URL", "redis://:hunter2#x@h:6379/0"),
        (DeploymentSettings, "HGPROMPT_REDIS_URL", "redis://:hunter2@h:99999999/0"),
        (DeploymentSettings, "HGPROMPT_REDIS_URL", "http://:hunter2@h/0"),
        (DeploymentSettings, "HGPROMPT_LEASE_S", "hunter2"),
        (BackboneSettings, "HGPROMPT_PRECISION", "hunter2"),
        (ServiceSettings, "HGPROMPT_ROLE", "hunter2"),
        (WorkerSettings, "HGPROMPT_WORKER_NUM_THREADS", "hunter2"),
    ],
)
def test_a_wrong_value_is_quoted_unless_it_holds_a_password(
    monkeypatch: pytest.MonkeyPatch, settings: type[EnvironmentSettings], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings.read()
    _, line = str(caught.value).split("\n")
    shown = "" if name == "HGPROMPT_REDIS_URL" else f"={value!r}"
    assert line.startswith(f"  {name}{shown}: ")
    assert ("hunter2" in line) == bool(shown)


def test_a_value_that_is_wrong_in_two_ways_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HGPROMPT_FRONT_PROCESSES", "-1")
    with pytest.raises(SettingsError) as caught:
        ServiceSettings.read()
    _, line = str(caught.value).split("\n")
    reasons = "Input should be 'auto' / Input should be greater than or equal to 0"
    assert line == f"  HGPROMPT_FRONT_PROCESSES='-1': {reasons}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:pass%23word@h:6379/0",
        "rediss://user:password@[::1]:6380/1",
        "unix:///run/redis.sock",
        "unix://:password@/run/redis.sock?db=2",
    ],
)
def test_redis_urls_of_all_kinds_are_understood(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HGPROMPT_REDIS_URL", url)
    assert DeploymentSettings.read().redis_url == url


def test_what_is_no_setting_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    environment = {"HGPROMPT_MAX_QEUE": "secret", "HGPROMPT_PORT": "1", "PATH": "/"}
    with caplog.at_level(logging.WARNING):
        warn_of_unknown_variables(environment)
    assert caplog.messages == [
        "HGPROMPT_MAX_QEUE is not a setting and is ignored; is HGPROMPT_MAX_QUEUE meant?",
    ]


def test_a_setting_is_suggested_only_if_its_own_part_of_the_name_is_near(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What Kubernetes sets for a service that is called hgprompt is nobody's slip of the pen."""
    names = ["HGPROMPT_PORT_8000_TCP", "HGPROMPT_SERVICE_HOST", "HGPROMPT_SERVICE_PORT"]
    with caplog.at_level(logging.WARNING):
        warn_of_unknown_variables(dict.fromkeys(names, "10.0.0.1"))
    assert caplog.messages == [f"{name} is not a setting and is ignored" for name in names]


def test_settings_are_not_changed_once_they_are_read() -> None:
    settings = DeploymentSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease_s = 1.0
    assert settings.lease_s == 30.0


def test_a_wrong_value_is_told_with_the_name_as_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("hgprompt_lease_s", "soon")
    with pytest.raises(SettingsError, match=r"\n  hgprompt_lease_s='soon': "):
        DeploymentSettings.read()


def test_what_is_wrong_with_several_is_told_of_no_single_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HGPROMPT_HEARTBEAT_S", "29")
    with pytest.raises(SettingsError) as caught:
        DeploymentSettings.read()
    assert str(caught.value).split("\n") == [
        "the settings are not valid",
        "  HGPROMPT_HEARTBEAT_S=29 must be at most an eighth of HGPROMPT_LEASE_S=30",
    ]
