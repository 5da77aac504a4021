"""compose.yaml, as far as it can be read."""

import re
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

COMPOSE = ROOT / "compose.yaml"
COMPOSED = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
IS_SECRET = re.compile("PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_the_environment_and_may_not_be_empty(name: str) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        if IS_SECRET.search(variable) or variable == "PGPASSWORD":
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), variable
        else:
            assert "://" not in value or "@" not in value, variable
    # A command can be seen by whoever may list processes.
    assert "$" not in str(SERVICES[name].get("command"))


def test_the_example_names_every_variable_that_is_needed() -> None:
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^# ([A-Z0-9_]+)=", example, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+):[?-]", COMPOSE.read_text())) <= named


@pytest.mark.parametrize("name", SERVICES)
def test_image_is_pinned_or_built_from_the_locks(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    else:
        assert re.search(r":\d+\.\d+$", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_service_waits_until_what_it_needs_is_healthy(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[needed]
    assert "healthcheck" in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_and_what_is_kept_is_a_volume(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSED["volumes"]


def test_a_team_adds_packages_and_changes_none() -> None:
    locks = [
        {line.split("==")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.lock", "requirements-team.lock")
    ]
    assert locks[1]
    assert not locks[0] & locks[1]
