"""Long texts in windows, the answer's place in each, and the best span over all of them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from stages.errors import DataError
from stages.evaluation.spans import MAX_ANSWER_TOKENS, best_span
from stages.evaluation.squad_metrics import exact_match
from stages.evaluation.task_folder import Question
from stages.evaluation.windows import answer_tokens, best_views, make_windows, window_starts
from tests.conftest import ROOT

TEXT = "the cat sees the old king . the dog finds a red bird in the tree . the queen sings"


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_tokenizer))


def asked(answer: str, text: str = TEXT) -> Question:
    return Question("q", "who finds it ?", text, (answer,), (text.index(answer),))


def test_windows_begin_a_stride_apart_and_the_last_reaches_the_end() -> None:
    assert window_starts(10, 10, 4) == [0]
    assert window_starts(11, 10, 4) == [0, 4]
    assert window_starts(20, 10, 4) == [0, 4, 8, 12]
    # A window that is shorter than the stride leaves nothing out.
    assert window_starts(9, 3, 4) == [0, 3, 6]


def test_a_window_is_cls_question_sep_part_sep(tokenizer: Tokenizer) -> None:
    windows = make_windows([asked("the dog")], tokenizer, max_length=16, stride=6)
    tokens = [[tokenizer.id_to_token(i) for i in ids] for ids in windows.examples.ids]
    words = TEXT.split()
    question = ["[CLS]", "who", "finds", "it", "?", "[SEP]"]
    question[1] = "[UNK]"
    assert tokens == [[*question, *words[s : s + 9], "[SEP]"] for s in (0, 6, 12)]
    assert windows.examples.types[0] == [0] * 6 + [1] * 10


def test_a_question_is_cut_after_64_tokens(tokenizer: Tokenizer) -> None:
    long = Question("q", "cat " * 70, TEXT, ("cat",), (4,))
    windows = make_windows([long], tokenizer, max_length=128, stride=64)
    # [CLS], the question and [SEP], before all of the text.
    assert windows.parts[0].first == 66


def test_two_separators_stand_where_the_tokenizer_puts_two_between_texts(
    tokenizer: Tokenizer,
) -> None:
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
    )
    windows = make_windows([asked("cat")], tokenizer, max_length=64, stride=32)
    assert windows.examples.ids[0] == tokenizer.encode("who finds it ?", TEXT).ids


def test_a_window_without_the_whole_answer_points_at_cls(tokenizer: Tokenizer) -> None:
    # Words 7 and 8; the windows hold words 0-8, 6-14 and 12-19.
    windows = make_windows([asked("the dog")], tokenizer, max_length=16, stride=6)
    assert windows.examples.labels.tolist() == [[13, 14], [7, 8], [0, 0]]
    # Words 8 and 9: the first window has only the first of them.
    windows = make_windows([asked("dog finds")], tokenizer, max_length=16, stride=6)
    assert windows.examples.labels.tolist() == [[0, 0], [8, 9], [0, 0]]


def test_the_tokens_of_an_answer_give_back_its_characters(tokenizer: Tokenizer) -> None:
    for answer in ("cat", "the old king", "a red bird in the tree", "sings"):
        windows = make_windows([asked(answer)], tokenizer, max_length=64, stride=32)
        (part,), ((begin, end),) = windows.parts, windows.examples.labels
        first, last = part.characters[begin - part.first], part.characters[end - part.first]
        assert TEXT[first[0] : last[1]] == answer


def test_an_answer_inside_a_token_takes_the_whole_token() -> None:
    places = np.array([[0, 3], [4, 9], [9, 10]], dtype=np.int32)
    assert answer_tokens(places, 4, 5) == (1, 1)
    assert answer_tokens(places, 5, 2) == (1, 1)
    assert answer_tokens(places, 5, 5) == (1, 2)


def test_a_token_belongs_to_the_window_with_most_text_around_it() -> None:
    # Windows 0-9 and 4-13 (the end): token 6 has 3 words on its poorer side in the first, 2 in the
    # second; token 7 has 2 and 3.
    assert best_views(14, 10, [0, 4]).tolist() == [0] * 7 + [1] * 7
    # 0-9 and 8-11: the last window is short.
    assert best_views(12, 10, [0, 8]).tolist() == [0] * 9 + [1] * 3
    # 0-299 and 200-309: token 250 has 49 and 50 on its poorer side, and 3 and 1.1 for the lengths;
    # token 251 has 48 and 51.
    assert best_views(310, 300, [0, 200])[[250, 251]].tolist() == [0, 1]


def test_the_best_span_runs_forward_and_is_not_too_long() -> None:
    length = 40
    logits = np.zeros((length, 2), dtype=np.float32)
    logits[5, 0], logits[38, 1] = 9.0, 9.0  # 34 tokens: too long together
    logits[3, 1] = 8.0  # ends before it begins
    logits[7, 1] = 1.0
    everywhere = np.ones(length, dtype=bool)
    assert best_span(logits, everywhere) == (10.0, 5, 7)
    assert MAX_ANSWER_TOKENS == 30
    logits[34, 1] = 2.0  # 30 tokens: just allowed
    assert best_span(logits, everywhere) == (11.0, 5, 34)


def test_a_span_begins_where_its_window_shows_it_best() -> None:
    logits = np.array([[5, 0], [1, 1], [0, 0]], dtype=np.float32)
    assert best_span(logits, np.array([False, True, True])) == (2.0, 1, 1)


def test_the_best_span_is_that_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        logits = rng.normal(size=(45, 2)).astype(np.float32)
        allowed = rng.random(45) < 0.7
        pairs = [
            (float(logits[i, 0] + logits[j, 1]), i, j)
            for i in range(45)
            for j in range(i, min(i + MAX_ANSWER_TOKENS, 45))
            if allowed[i]
        ]
        assert best_span(logits, allowed) == max(pairs)


def test_a_question_that_fills_the_window_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"question q leaves no room for its text in 7 tokens"):
        make_windows([asked("dog")], tokenizer, max_length=7, stride=4)


def test_the_development_set_has_as_many_windows_as_berts_own_script_makes(
    shared_data: Path,
) -> None:
    vocabulary = ROOT / "models" / "teacher_source" / "tokenizer.json"
    if not vocabulary.is_file():
        pytest.skip(f"BERT's vocabulary is not here: {vocabulary} does not exist")
    (source,) = (shared_data / "hub/rajpurkar/squad/plain_text").glob("validation-*.parquet")
    questions = [
        Question(row["id"], row["question"], row["context"], ("",), (0,))
        for row in pq.read_table(source).to_pylist()
    ]
    windows = make_windows(questions, Tokenizer.from_file(str(vocabulary)), 384, 128)
    assert len(windows.parts) == 10_833


def test_gold_spans_of_real_questions_are_found_again(shared_data: Path) -> None:
    """With the gold tokens as its choice, a model would answer as the annotators did."""
    from tests.tiny_pipeline import FREQUENT

    (source,) = (shared_data / "hub/rajpurkar/squad/plain_text").glob("validation-*.parquet")
    rows = pq.read_table(source).slice(0, 400).to_pylist()
    questions = [
        Question(
            row["id"],
            row["question"],
            row["context"],
            tuple(row["answers"]["text"]),
            tuple(row["answers"]["answer_start"]),
        )
        for row in rows
    ]
    from tokenizers import models, normalizers, pre_tokenizers

    # Characters as tokens: the hardest case for windows, and no vocabulary is needed.
    letters = sorted({c for row in questions for c in (row.context + row.question).lower()})
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *letters, *FREQUENT.split()]
    letter_level = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(dict.fromkeys(names))}, "[UNK]")
    )
    letter_level.normalizer = normalizers.Lowercase()
    letter_level.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    windows = make_windows(questions, letter_level, max_length=384, stride=128)
    found = {}
    for part, (begin, end) in zip(windows.parts, windows.examples.labels, strict=True):
        if begin:
            first = part.characters[begin - part.first, 0]
            last = part.characters[end - part.first, 1]
            found[part.question] = questions[part.question].context[first:last]
    assert len(found) == len(questions)
    assert all(exact_match(text, questions[i].answers[:1]) for i, text in found.items())
