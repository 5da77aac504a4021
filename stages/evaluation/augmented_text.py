"""A task's folder with more text: every sentence's variants beside it (TinyBERT's augmentation)."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stages.command import log
from stages.corpus.tokenizer_file import read_tokenizer
from stages.errors import SettingsError
from stages.evaluation.augmentation import MASK, Augmenter, read_glove
from stages.evaluation.examples import read_rows
from stages.files import atomic_output
from stages.params import Augmentation, FineTune
from stages.students.positions import num_positions
from stages.teacher.models import open_teacher


def augment(
    settings: Augmentation,
    teacher_folder: Path,
    task_folder: Path,
    tuning: FineTune,
    seed: int,
    device: torch.device,
    out: Path,
) -> None:
    """Write a task folder whose training text has every sentence's variants beside it.

    Where `tuning` reads fewer examples than there are, a fixed random part of them varies; of a
    text, the tokens that it reads. Of a pair one text varies at a time, and the other is as it was:
    the released code goes on with the last variant of the first.

    Raises:
        SettingsError: the teacher's tokens are not BERT's word pieces.
    """
    tokenizer = read_tokenizer(teacher_folder / "tokenizer.json")
    kind = type(tokenizer.model).__name__
    # In other vocabularies a token holds the space before it: none would be a word, and most of
    # what a model puts for a mask would be left out.
    if kind != "WordPiece" or tokenizer.token_to_id(MASK) is None:
        raise SettingsError(
            f"augmentation puts one word piece for another, and {teacher_folder} has a tokenizer "
            f"of kind {kind}: it wants a teacher with BERT's, WordPiece with a token {MASK}; with "
            "others, leave augmentation out of the recipe"
        )
    table = read_rows(task_folder, "train", tuning.max_train_examples)
    model = open_teacher(teacher_folder).to(device)
    augmenter = Augmenter(
        model,
        tokenizer,
        read_glove(Path(settings.glove)),
        num_candidates=settings.num_candidates,
        probability=settings.probability,
        # A text with a word masked, and beside it the text as it was.
        max_length=min(2 * tuning.max_length, num_positions(model.config)),
    )
    pieces = [table]
    for offset, column in enumerate(("text_a", "text_b")):
        texts = [text or "" for text in table[column].to_pylist()]
        variants = augmenter.variants(texts, settings.num_variants, seed + offset)
        rows = [row for row, found in enumerate(variants) for _ in found]
        varied = pa.array([variant for found in variants for variant in found], pa.string())
        taken = table.take(pa.array(rows, pa.int64()))
        place = table.column_names.index(column)
        pieces.append(taken.set_column(place, table.schema.field(column), varied))
    with atomic_output(out) as target:
        target.mkdir()
        pq.write_table(pa.concat_tables(pieces), target / "train.parquet")
        shutil.copyfile(task_folder / "task.json", target / "task.json")
    log.info("%s: %d examples of %d", task_folder.name, sum(map(len, pieces)), len(table))
