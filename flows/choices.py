"""What a form offers to choose from: the profiles and stages of this checkout.

Prefect draws a deployment's form from the types of its flow's parameters. The choices are read when
the deployment is made; a flow takes any string, and says itself what is wrong with it.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stages.params.loading import profile_names

GRAPH = Path("dvc.yaml")


def stage_groups() -> list[str]:
    """Return the stages of dvc.yaml by the names that stand in it, in its order."""
    import yaml

    if not GRAPH.is_file():
        return []
    return list(yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"])


def _a_profile(schema: dict[str, Any]) -> None:
    _offer(schema, {"type": "string", "enum": profile_names()})


def _stages(schema: dict[str, Any]) -> None:
    items = {"type": "string", "enum": stage_groups()}
    _offer(schema, {"type": "array", "items": items, "uniqueItems": True})


def _offer(schema: dict[str, Any], choice: dict[str, Any]) -> None:
    """Offer the choices alone: what is left empty is not sent, so null need not be one of them."""
    for key in ("anyOf", "default"):
        schema.pop(key, None)
    schema.update(choice)


Profile = Annotated[str | None, Field(json_schema_extra=_a_profile)]
Targets = Annotated[list[str] | None, Field(json_schema_extra=_stages)]
