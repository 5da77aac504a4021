"""A student from a recipe's architecture and initialisation: a stock masked language model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import BertForMaskedLM, PreTrainedModel

from stages.errors import SettingsError
from stages.students.distilbert import build_student
from stages.students.families import build_relative
from stages.students.mobilebert import build_mobilebert

if TYPE_CHECKING:
    from stages.params import MobileBertShape, Recipe, Shape
    from stages.params.recipes import Initialise


def build(
    teacher: PreTrainedModel,
    recipe: "Recipe",
    *,
    dropout: float,
    seed: int,
    before: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """Return the student that a recipe begins with.

    Args:
        teacher: Gives what the architecture leaves open, and the layers that are copied.
        recipe: Of the student.
        dropout: Of the student, everywhere.
        seed: Of what is drawn at random.
        before: The student that this one comes after; in the teacher's place where it begins from
            that one.

    Raises:
        SettingsError: this architecture cannot be initialised so from this teacher.
        TeacherError: the teacher computes something that the architecture cannot express.
    """
    shape, start = recipe.architecture, recipe.initialise
    if start.kind == "student":
        assert before is not None, "Params: such a recipe is a successor"
        teacher = before
    layers = start.layers if start.kind in ("layers", "student") else None
    student = _build(teacher, shape, start, layers, dropout=dropout, seed=seed)
    if start.kind == "student" and layers is None:
        _take_over(student, teacher)
    return student


def _take_over(student: PreTrainedModel, before: PreTrainedModel) -> None:
    """Give a student all weights of another."""
    mine, theirs = student.state_dict(), before.state_dict()
    odd = [
        name
        for name in sorted(mine.keys() | theirs.keys())
        if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape
    ]
    if odd:
        raise SettingsError(
            "initialise.kind = student: the two are not of one architecture, they differ in "
            f"{', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}; name the layers to copy"
        )
    student.load_state_dict(theirs)


def _build(
    teacher: PreTrainedModel,
    shape: "Shape | MobileBertShape",
    start: "Initialise",
    layers: Sequence[int] | None,
    *,
    dropout: float,
    seed: int,
) -> PreTrainedModel:
    if shape.kind == "mobilebert":
        return build_mobilebert(
            teacher, shape, copy_embeddings=start.kind == "embeddings", dropout=dropout, seed=seed
        )
    num_layers = teacher.config.num_hidden_layers
    if layers is not None and max(layers) >= num_layers:
        whose = "student before it" if start.kind == "student" else "teacher"
        raise SettingsError(
            f"initialise.layers (teacher_layers) names layer {max(layers)}, but the {whose} has "
            f"layers 0 to {num_layers - 1}"
        )
    if shape.kind == "distilbert" and teacher.config.model_type != "distilbert":
        if not isinstance(teacher, BertForMaskedLM):
            raise SettingsError(
                f"a distilbert student is made from a bert teacher, not {teacher.config.model_type}"
            )
        return build_student(
            teacher,
            layers or range(shape.num_layers),
            initialise="random" if layers is None else "teacher",
            fold_token_type=start.kind != "layers" or start.fold_token_type,
            dropout=dropout,
            seed=seed,
        )
    return build_relative(teacher, shape, layers, dropout=dropout, seed=seed)
