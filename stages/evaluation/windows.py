"""Questions on texts that may be longer than a model reads: one window of the text after another.

A window is [CLS] question [SEP] part of the text [SEP], with RoBERTa's names and its second [SEP]
where the tokenizer is of its kind; the next begins `stride` tokens further on, as BERT's doc_stride
has it. A window that does not hold the whole answer points at [CLS].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from stages.corpus.tokenizer_file import read_tokenizer, special_ids
from stages.errors import DataError
from stages.evaluation.examples import Examples, read_rows
from stages.evaluation.task_folder import Question

MAX_QUESTION_TOKENS = 64
"""Longer questions are cut, as in BERT's run_squad."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of its question's text a window holds."""

    question: int
    """The question's number."""
    first: int
    """Place of the part's first token in the window."""
    characters: NDArray[np.int32]
    """Where each of its tokens begins and ends in the text, N x 2."""
    is_best_view: NDArray[np.bool_]
    """Whether no other window has more of the text around the token, N."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows as examples whose labels are W x 2: where the answer's tokens begin and end."""

    questions: Sequence[Question]
    examples: Examples
    parts: list[Part]


def read_windows(
    folder: Path,
    split: str,
    tokenizer_file: Path,
    *,
    max_length: int,
    stride: int,
    max_questions: int | None,
) -> Windows:
    """Read one split of a task of questions on texts.

    Where `max_questions` is fewer than there are, a fixed random part of them is taken.
    """
    table = read_rows(folder, split, max_questions)
    columns = [table[name].to_pylist() for name in ("id", "text_a", "text_b", "answers", "starts")]
    questions = [Question(*row) for row in zip(*columns, strict=True)]
    return make_windows(questions, read_tokenizer(tokenizer_file), max_length, stride)


def make_windows(
    questions: Sequence[Question], tokenizer: Tokenizer, max_length: int, stride: int
) -> Windows:
    """Cut the texts into windows of at most `max_length` tokens, `stride` tokens apart."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A text is asked about several times, and encoded once.
    texts = _encoded(tokenizer, list(dict.fromkeys(row.context for row in questions)))
    asked = _encoded(tokenizer, list(dict.fromkeys(row.question for row in questions)))
    characters = {
        text: np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        for text, encoding in texts.items()
    }
    special = special_ids(tokenizer, "the tokenizer")
    # As the tokenizer itself puts two texts together.
    between = [special.sep] * max(1, tokenizer.num_special_tokens_to_add(is_pair=True) - 2)
    ids: list[list[int]] = []
    types: list[list[int]] = []
    labels: list[tuple[int, int]] = []
    parts: list[Part] = []
    for number, row in enumerate(questions):
        question = asked[row.question].ids[:MAX_QUESTION_TOKENS]
        tokens, places = texts[row.context].ids, characters[row.context]
        first = 1 + len(question) + len(between)
        room = max_length - first - 1
        if room < 1:
            raise DataError(
                f"question {row.id} leaves no room for its text in {max_length} tokens; raise "
                "evaluation.finetune.max_length for this task"
            )
        answer = answer_tokens(places, row.starts[0], len(row.answers[0]))
        starts = window_starts(len(tokens), room, stride)
        best = best_views(len(tokens), room, starts)
        for index, start in enumerate(starts):
            stop = min(start + room, len(tokens))
            ids.append([special.cls, *question, *between, *tokens[start:stop], special.sep])
            types.append([0] * first + [1] * (stop - start + 1))
            inside = start <= answer[0] and answer[1] < stop
            shift = first - start
            labels.append((answer[0] + shift, answer[1] + shift) if inside else (0, 0))
            parts.append(Part(number, first, places[start:stop], best[start:stop] == index))
    examples = Examples(ids, types, np.array(labels, dtype=np.int64).reshape(-1, 2), special.pad)
    return Windows(questions, examples, parts)


def window_starts(num_tokens: int, room: int, stride: int) -> list[int]:
    """Return where the windows begin: the last one is the first to reach the end of the text."""
    starts = [0]
    while starts[-1] + room < num_tokens:
        starts.append(starts[-1] + min(stride, room))
    return starts


def best_views(num_tokens: int, room: int, starts: Sequence[int]) -> NDArray[np.int64]:
    """Return for each token of a text the window with most of the text on its poorer side.

    To that a hundredth of the window's length is added, in favour of longer ones, as BERT has it.
    """
    places = np.arange(num_tokens)
    views = np.full((len(starts), num_tokens), -1.0)
    for index, start in enumerate(starts):
        stop = min(start + room, num_tokens)
        inside = places[start:stop]
        nearer = np.minimum(inside - start, stop - 1 - inside)
        views[index, start:stop] = nearer + 0.01 * (stop - start)
    best: NDArray[np.int64] = views.argmax(axis=0)
    return best


def answer_tokens(places: NDArray[np.int32], start: int, length: int) -> tuple[int, int]:
    """Return the first and the last token of an answer given by its characters."""
    first = int(np.searchsorted(places[:, 1], start, side="right"))
    last = int(np.searchsorted(places[:, 0], start + length, side="left")) - 1
    return first, max(first, last)


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Encoding]:
    return dict(zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))
