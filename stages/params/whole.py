"""All of params.yaml as one model."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from stages.params.base import Name, Settings
from stages.params.corpus import Corpus
from stages.params.evaluation import Evaluation
from stages.params.recipes import TEACHER, Recipe, Successor
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
    successors: dict[Name, Successor] = Field(default_factory=dict)
    """Students that need another student: an assistant's, or those of a second stage."""
    distill: Distill
    evaluation: Evaluation
    export: Export
    gate: Gate
    registry: Registry
    launch: Launch

    @model_validator(mode="after")
    def _successors_follow_someone(self) -> "Params":
        names = [TEACHER, *self.teacher.others, *self.students, *self.successors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name '{name}' stands for two models")
        for name, successor in self.successors.items():
            if successor.after not in (*self.students, *self.successors):
                raise ValueError(
                    f"successors.{name}.after names '{successor.after}', which is not one of the "
                    f"students: {', '.join((*self.students, *self.successors))}"
                )
            chain = [name]
            while (before := self.successors.get(chain[-1])) is not None:
                if before.after in chain:
                    path = " after ".join([*chain[chain.index(before.after) :], before.after])
                    raise ValueError(f"successors: none of {path} could be made first")
                chain.append(before.after)
        return self

    @model_validator(mode="after")
    def _teachers_exist(self) -> "Params":
        for place, recipe in self._places():
            known = [TEACHER, *self.teacher.others]
            known += [recipe.after] if isinstance(recipe, Successor) else []
            for other in recipe.taught_by:
                if other not in known:
                    raise ValueError(
                        f"{place}.taught_by names '{other}': it is taught by "
                        f"{' or '.join(known)}; one that needs another student stands under "
                        "successors, where `after` names it"
                    )
        return self

    @model_validator(mode="after")
    def _what_masks_need_is_masked(self) -> "Params":
        for place, recipe in self._places():
            for phase in recipe.phases:
                if (phase.masking or self.distill.masking).fraction:
                    continue
                for kind in phase.of_masked_tokens(self.distill.positions):
                    raise ValueError(
                        f"{place}: phase {phase.name}: masking.fraction is 0, but {kind} is of "
                        "masked tokens"
                    )
        return self

    def _places(self) -> Iterator[tuple[str, Recipe]]:
        """Yield every recipe with the key at which it stands."""
        for section, recipes in (("students", self.students), ("successors", self.successors)):
            for name, student in recipes.items():
                yield f"{section}.{name}", student.recipe()

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of every student by its name, after those of the students it needs."""
        found = {name: student.recipe() for name, student in self.students.items()}
        left = dict(self.successors)
        while left:
            for name, successor in list(left.items()):
                if successor.after in found:
                    found[name] = left.pop(name)
        return found

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        students = (*self.students, *self.successors)
        known = ", ".join(students)
        named = {
            "evaluation.students": self.evaluation.students,
            "evaluation.baseline": [self.evaluation.baseline] if self.evaluation.baseline else [],
            "export.students": self.export.students,
        }
        for key, names in named.items():
            for name in names:
                if name not in students:
                    raise ValueError(f"{key} names '{name}', which is not one of students: {known}")
        for key in ("evaluation.baseline", "export.students"):
            for name in named[key]:
                if name not in self.evaluation.students:
                    raise ValueError(f"{key} names '{name}', which evaluation.students leaves out")
        return self

    def hub_path(self, dataset: str) -> str:
        """Return what `load_dataset` is given for a hub dataset: its id, or its local folder."""
        return dataset if self.hub_root is None else str(Path(self.hub_root) / dataset)
