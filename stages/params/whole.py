"""All of params.yaml as one model."""

from pathlib import Path

from pydantic import Field, model_validator

from stages.params.base import Name, Settings
from stages.params.corpus import Corpus
from stages.params.evaluation import Evaluation
from stages.params.release import Export, Gate, Registry
from stages.params.students import AnyStudent, Distill
from stages.params.teacher import Teacher
from stages.params.training import Launch


class Params(Settings):
    """All of params.yaml."""

    profile: str
    seed: int = Field(ge=0)
    hub_root: str | None
    """A folder in the hub's layout that is read instead of the hub; null asks the hub."""
    corpus: Corpus
    teacher: Teacher
    students: dict[Name, AnyStudent] = Field(min_length=1)
    distill: Distill
    evaluation: Evaluation
    export: Export
    gate: Gate
    registry: Registry
    launch: Launch

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        known = ", ".join(self.students)
        named = {
            "evaluation.students": self.evaluation.students,
            "evaluation.baseline": [self.evaluation.baseline] if self.evaluation.baseline else [],
            "export.students": self.export.students,
        }
        for key, names in named.items():
            for name in names:
                if name not in self.students:
                    raise ValueError(f"{key} names '{name}', which is not one of students: {known}")
        for key in ("evaluation.baseline", "export.students"):
            for name in named[key]:
                if name not in self.evaluation.students:
                    raise ValueError(f"{key} names '{name}', which evaluation.students leaves out")
        return self

    def hub_path(self, dataset: str) -> str:
        """Return what `load_dataset` is given for a hub dataset: its id, or its local folder."""
        return dataset if self.hub_root is None else str(Path(self.hub_root) / dataset)
