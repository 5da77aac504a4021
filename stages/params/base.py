"""What every section of the settings is made of."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
"""Names become files, DVC stages and MLflow keys: lower case, digits, underscores."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _each_once(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"names {value} twice")
    return values


EachOnce = AfterValidator(_each_once)
"""Beside the type of a list: what is named twice would count twice, or not at all."""


def raise_all(mistakes: Iterable[str]) -> None:
    """Raise one error that says every mistake in a line of its own, if there is any."""
    if said := "\n".join(mistakes):
        raise ValueError(said)


class Settings(BaseModel):
    """Base of every section: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
