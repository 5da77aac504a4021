"""All of params.yaml as one model."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from stages.params.base import Name, Seed, Settings, Text, raise_all
from stages.params.corpus import Corpus
from stages.params.evaluation import Evaluation
from stages.params.recipes import TEACHER, Recipe, Successor
from stages.params.release import Export, Gate, Registry
from stages.params.students import AnyStudent, Distill
from stages.params.teacher import Teacher
from stages.params.training import Launch


class Params(Settings):
    """All of params.yaml."""

    profile: Text
    seed: Seed
    hub_root: Text | None
    """A folder in the hub's layout that is read instead of the hub; null asks the hub."""
    corpus: Corpus
    teacher: Teacher
    students: dict[Name, AnyStudent] = Field(min_length=1)
    successors: dict[Name, Successor]
    """Students that need another student: an assistant's, or those of a second stage."""
    distill: Distill
    evaluation: Evaluation
    export: Export
    gate: Gate
    registry: Registry
    launch: Launch

    @model_validator(mode="after")
    def _sections_fit(self) -> "Params":
        raise_all(
            [
                *self._successors_follow_someone(),
                *self._teachers_exist(),
                *self._what_masks_need_is_masked(),
                *self._every_process_has_a_sequence(),
                *self._names_exist(),
                *self._there_is_a_baseline_to_beat(),
            ]
        )
        return self

    def _successors_follow_someone(self) -> Iterator[str]:
        names = [TEACHER, *self.teacher.others, *self.students, *self.successors]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"the name '{name}' stands for two models"
        for name, successor in self.successors.items():
            if successor.after not in (*self.students, *self.successors):
                yield (
                    f"successors.{name}.after names '{successor.after}', which is not one of the "
                    f"students: {', '.join((*self.students, *self.successors))}"
                )
            chain = [name]
            while (before := self.successors.get(chain[-1])) is not None:
                if before.after in chain:
                    path = " after ".join([*chain[chain.index(before.after) :], before.after])
                    yield f"successors: none of {path} could be made first"
                    return
                chain.append(before.after)

    def _teachers_exist(self) -> Iterator[str]:
        for place, recipe in self._places():
            known = [TEACHER, *self.teacher.others]
            known += [recipe.after] if isinstance(recipe, Successor) else []
            for other in recipe.taught_by:
                if other not in known:
                    yield (
                        f"{place}.taught_by names '{other}': it is taught by "
                        f"{' or '.join(known)}; one that needs another student stands under "
                        "successors, where `after` names it"
                    )

    def _what_masks_need_is_masked(self) -> Iterator[str]:
        for place, recipe in self._places():
            for phase in recipe.phases:
                if (phase.masking or self.distill.masking).fraction:
                    continue
                for kind in phase.of_masked_tokens(self.distill.positions):
                    yield (
                        f"{place}: phase {phase.name}: masking.fraction is 0, but {kind} is of "
                        "masked tokens"
                    )

    def _every_process_has_a_sequence(self) -> Iterator[str]:
        if self.launch.command is not None:
            # Which says itself how many there are.
            return
        sizes = {}
        if self.teacher.adapt is not None:
            sizes["teacher.adapt"] = self.teacher.adapt.batch_sequences
        for place, recipe in self._places():
            for phase in recipe.phases:
                key = (
                    f"{place}: phase {phase.name}: schedule"
                    if phase.schedule
                    else "distill.schedule"
                )
                sizes[key] = (phase.schedule or self.distill.schedule).batch_sequences
        for key, size in sizes.items():
            if size < self.launch.num_processes:
                yield (
                    f"{key}.batch_sequences = {size} is fewer than the "
                    f"{self.launch.num_processes} of launch.num_processes that share it"
                )

    def _names_exist(self) -> Iterator[str]:
        students = (*self.students, *self.successors)
        baseline = [self.evaluation.baseline] if self.evaluation.baseline else []
        named = {
            "evaluation.students": self.evaluation.students,
            "evaluation.baseline": baseline,
            "export.students": self.export.students,
        }
        for key, names in named.items():
            for name in names:
                if name not in students:
                    known = ", ".join(students)
                    yield f"{key} names '{name}', which is not one of students: {known}"
                elif name not in self.evaluation.students:
                    yield f"{key} names '{name}', which evaluation.students leaves out"

    def _there_is_a_baseline_to_beat(self) -> Iterator[str]:
        if self.evaluation.baseline is None and self.gate.must_beat_baseline_on:
            asked = ", ".join(self.gate.must_beat_baseline_on)
            yield (
                f"evaluation.baseline is null, but gate.must_beat_baseline_on asks for {asked}: "
                "name a baseline, or set gate.must_beat_baseline_on to []"
            )

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

    def hub_path(self, dataset: str) -> str:
        """Return what `load_dataset` is given for a hub dataset: its id, or its local folder."""
        return dataset if self.hub_root is None else str(Path(self.hub_root) / dataset)
