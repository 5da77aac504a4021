"""A student from a recipe's architecture and initialisation: a stock masked language model."""

from typing import TYPE_CHECKING

from transformers import BertForMaskedLM, PreTrainedModel

from stages.errors import SettingsError
from stages.students.distilbert import build_student
from stages.students.families import build_relative
from stages.students.mobilebert import build_mobilebert

if TYPE_CHECKING:
    from stages.params import Recipe


def build(
    teacher: PreTrainedModel, recipe: "Recipe", *, dropout: float, seed: int
) -> PreTrainedModel:
    """Return the student that a recipe begins with.

    Raises:
        SettingsError: this architecture cannot be initialised so from this teacher.
        TeacherError: the teacher computes something that the architecture cannot express.
    """
    shape, start = recipe.architecture, recipe.initialise
    layers = start.layers if start.kind == "layers" else None
    if start.kind == "embeddings" and shape.kind != "mobilebert":
        raise SettingsError("initialise.kind = embeddings is for a mobilebert architecture")
    if shape.kind == "mobilebert":
        if layers is not None:
            raise SettingsError("initialise.kind = layers: no teacher has MobileBERT's layers")
        return build_mobilebert(
            teacher,
            shape,
            copy_embeddings=start.kind == "embeddings",
            dropout=dropout,
            seed=seed,
        )
    if shape.kind == "distilbert":
        if not isinstance(teacher, BertForMaskedLM):
            raise SettingsError(
                f"a distilbert student is made from a bert teacher, not {teacher.config.model_type}"
            )
        if layers is not None and len(layers) != shape.num_layers:
            raise SettingsError(
                f"initialise.layers names {len(layers)} layers, but the student has "
                f"{shape.num_layers}"
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
