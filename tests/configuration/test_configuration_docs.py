"""`docs/configuration.md` and the settings classes may not drift apart."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from backbones.settings import BackboneSettings
from jobs.settings import DeploymentSettings
from service.settings import ServiceSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, type[BaseSettings]] = {
    "Deployment": DeploymentSettings,
    "Backbone": BackboneSettings,
    "Service": ServiceSettings,
    "Worker": WorkerSettings,
}
ROW = re.compile(r"^\| `(HGPROMPT_[A-Z0-9_]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
DEPENDS_ON_THE_MACHINE = {
    "HGPROMPT_CACHE_DIR": "`~/.cache/hgprompt`",
    "HGPROMPT_DECODE_THREADS": "the number of processors",
    "HGPROMPT_RUNTIME_DIR": "the system's folder for temporary files",
    "HGPROMPT_UPLOAD_DIR": "the system's folder for temporary files",
}


def documented(section: str) -> dict[str, str]:
    """Variable to default, as a section of the page has them."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    body = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {name: default for name, default, _ in ROW.findall(body)}


def settings_of(cls: type[BaseSettings]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in cls.model_fields.items():
        variable = f"{cls.model_config['env_prefix']}{name}".upper()
        value = str(field.default).lower() if field.annotation is bool else str(field.default)
        usual = "empty" if field.default == () else f"`{value}`"
        found[variable] = DEPENDS_ON_THE_MACHINE.get(variable, usual)
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    assert documented(section) == settings_of(SECTIONS[section])


def test_every_variable_of_the_client_is_documented() -> None:
    declared: dict[str, str] = {}
    for path in (ROOT / "client").rglob("*.py"):
        declared |= dict.fromkeys(re.findall(r'envvar="(HGPROMPT_\w+)"', path.read_text()), "")
    elsewhere = {name for section in SECTIONS for name in documented(section)}
    assert documented("Client").keys() == declared.keys() - elsewhere


def test_every_variable_of_the_compose_files_is_documented_with_its_default() -> None:
    asked: dict[str, str] = {}
    for path in (ROOT / "docker-compose.yml", *(ROOT / "docker").glob("*.yaml")):
        found = re.findall(r"\$\{(HGPROMPT_\w+):([-?])(.*?)\}", path.read_text())
        asked |= {name: default for name, kind, default in found if kind == "-"}
        asked |= {name: "" for name, kind, _ in found if kind == "?"}
    of_processes = {name for section in SECTIONS for name in documented(section)}
    shown = documented("Docker Compose")
    assert shown.keys() == asked.keys() - of_processes
    for name in shown.keys() - {"HGPROMPT_REDIS_PASSWORD", "HGPROMPT_OTLP_ENDPOINT"}:
        assert shown[name] == f"`{asked[name]}`"


def test_nothing_else_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert sections == [*SECTIONS, "Client", "Docker Compose"]
    assert len(ROW.findall(page)) == sum(len(documented(section)) for section in sections)
