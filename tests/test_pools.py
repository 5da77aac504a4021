"""The work pools of containers: their templates are valid, render, and say what the flows need."""

import json
import re
from typing import Any

import jsonschema
import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import apply_values

from tests.conftest import ROOT

POOLS = ROOT / "launch" / "pools"
GIVEN = {"name": "run", "command": "prefect flow-run execute", "labels": {"run": "1"}, "env": {}}


def template(kind: str) -> dict[str, Any]:
    return json.loads((POOLS / f"{kind}.json").read_text())


def rendered(kind: str, **chosen: Any) -> dict[str, Any]:
    """What the worker makes of the template: defaults, then what is chosen for a run."""
    known = template(kind)["variables"]["properties"]
    defaults = {name: about["default"] for name, about in known.items() if "default" in about}
    return apply_values(template(kind)["job_configuration"], defaults | GIVEN | chosen)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_template_is_valid_and_every_variable_is_used_and_known(kind: str) -> None:
    made = template(kind)
    jsonschema.Draft202012Validator.check_schema(made["variables"])
    WorkPoolCreate(name=kind, type=kind, base_job_template=made)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(made["job_configuration"])))
    assert used == set(made["variables"]["properties"])
    defaults = {
        name: about["default"]
        for name, about in made["variables"]["properties"].items()
        if "default" in about
    }
    jsonschema.validate(defaults, made["variables"])
    assert "{{" not in json.dumps(rendered(kind))


def test_docker_mounts_the_checkout_where_the_deployment_says_it_is() -> None:
    made = rendered("docker", checkout="/srv/work")
    assert made["volumes"] == ["/srv/work:/srv/work"]
    assert made["privileged"] is False
    # Left empty, a limit is left out: Docker would not take an empty one.
    assert "mem_limit" not in made


def test_kubernetes_job_has_its_disks_its_grace_and_no_retry_of_its_own() -> None:
    job = rendered("kubernetes", gpus=2, checkout="/work/here")["job_manifest"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    # The flow says what is worth a retry; a pod that starts again would hide it.
    assert job["spec"]["backoffLimit"] == 0
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert container["workingDir"] == "/work/here"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    # More than the flow's own grace_seconds, 60, and what SIGTERM adds to it.
    assert pod["terminationGracePeriodSeconds"] > 60 + 10


def test_image_holds_the_pinned_environment_and_no_telemetry() -> None:
    from flows.environment import DEFAULTS

    text = (ROOT / "launch" / "Dockerfile").read_text()
    assert "--requirement /tmp/requirements.lock" in text
    told = dict(re.findall(r"([A-Z_]+)=(\w+)", text))
    assert {k: v for k, v in DEFAULTS.items() if k != "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"} == told
