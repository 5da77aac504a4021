"""What a form offers to choose from: the profiles and stages of this checkout.

Prefect draws a deployment's form from the types of its flow's parameters. The choices are read when
the deployment is made; a flow takes any string, and says itself what is wrong with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from stages.params.loading import profile_names

GRAPH = Path("dvc.yaml")
AS_IT_IS = "as it is"
"""The choice of no profile: the form of a parameter whose default is None would send null."""


def stage_groups() -> list[str]:
    """Return the stages of dvc.yaml by the names that stand in it, in its order."""
    import yaml

    if not GRAPH.is_file():
        return []
    return list(yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"])


@dataclass(frozen=True, slots=True)
class OneOf:
    """Beside a type: the form offers these strings."""

    choices: Callable[[], list[str]]

    def __get_pydantic_json_schema__(self, _core: Any, _handler: Any) -> dict[str, Any]:
        """Return the type as a form has it."""
        return {"type": "string", "enum": self.choices()}


@dataclass(frozen=True, slots=True)
class SomeOf(OneOf):
    """Beside a type: the form offers any of these strings."""

    def __get_pydantic_json_schema__(self, _core: Any, _handler: Any) -> dict[str, Any]:
        """Return the type as a form has it."""
        items = {"type": "string", "enum": self.choices()}
        return {"type": "array", "items": items, "uniqueItems": True}


Profile = Annotated[str, OneOf(lambda: [AS_IT_IS, *profile_names()])]
Targets = Annotated[Sequence[str], SomeOf(stage_groups)]
