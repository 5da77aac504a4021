"""Text to ids: the library's own, sentence by sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages.corpus import tokenising
from stages.corpus.tokenising import (
    MAX_SENTENCE_CHARACTERS,
    Encoder,
    continuations,
    id_type,
    open_tokenizer,
    sentences,
)
from stages.errors import DataError

TEXTS = [
    "The cat sees a dog. It runs! Does it? Mr. Smith reads a good book.\n\nA new day",
    "",
    'the "old" house by the\tRIVER, \u00e9l\u00e8ves and \u4e2d\u6587 \u2014 na\u00efve',
    "THE KING GIVES THE CHILD A BOOK.",
    " \n\n ",
    "the [MASK] of a [SEP] word [PAD]",
    "the c\x1eat and the\x00 dog\x7f",
]


def with_normaliser(tokenizer: Path, folder: Path, **changes: object) -> Path:
    """A tokenizer.json whose normaliser is another."""
    described = json.loads(tokenizer.read_text())
    described["normalizer"] |= changes
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described))
    return path


def test_the_ids_are_those_of_the_library(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    reference = open_tokenizer(tiny_tokenizer)
    found = [tokens.ids.tolist() for tokens in encoder.encode(TEXTS)]
    assert found == [reference.encode(text, add_special_tokens=False).ids for text in TEXTS]


HARD = [
    *"ab.-'_[~\t\n\r \x00\x0b\x1e\x85\xa0\u200b\u2028",
    *"\u0301\u0345\u037e\u226e\u4e2d\ufb01\u0130\u03a3\ufffd",
]
"""What a normaliser turns into something else, or that ends a word for some and not for others."""


@pytest.mark.parametrize("lowercase", [True, False])
def test_no_word_depends_on_its_neighbours(tiny_tokenizer, tmp_path, lowercase):
    path = with_normaliser(tiny_tokenizer, tmp_path, lowercase=lowercase)
    reference = open_tokenizer(path)
    random = np.random.default_rng(0)
    # One sentence each, since where one ends a word ends too.
    texts = ["".join(random.choice([*HARD, "the", "cat"], size=12)) for _ in range(1000)]
    texts = [text for text in texts if len(list(sentences(text))) == 1]
    found = [tokens.ids.tolist() for tokens in Encoder(path).encode(texts)]
    expected = reference.encode_batch(texts, add_special_tokens=False)
    assert found == [encoding.ids for encoding in expected]
    assert len(texts) > 500


def test_what_is_forgotten_is_asked_for_again(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenising, "MAX_REMEMBERED_BYTES", 10)
    encoder = Encoder(tiny_tokenizer)
    first = [tokens.ids.tolist() for text in TEXTS for tokens in encoder.encode([text])]
    assert len(encoder._remembered) < 20
    assert [tokens.ids.tolist() for tokens in encoder.encode(TEXTS)] == first


@pytest.mark.slow
def test_the_ids_of_real_text_are_those_of_the_library(shared_data, bert_tokenizer):
    """Every twentieth document of every kind of text that there is."""
    import pyarrow.parquet as pq

    texts = [
        path.read_text(encoding="utf-8-sig")[:60_000] for path in shared_data.glob("books/*.txt")
    ]
    for path in sorted(shared_data.glob("hub/**/*.parquet")):
        table = pq.read_table(path)
        for name in {"text", "sentence", "sentence1", "question", "premise", "context"} & set(
            table.column_names
        ):
            texts += table.column(name).to_pylist()[::200]
    encoder, reference = Encoder(bert_tokenizer), open_tokenizer(bert_tokenizer)
    expected = reference.encode_batch_fast(texts, add_special_tokens=False)
    for text, tokens, encoding in zip(texts, encoder.encode(texts), expected, strict=True):
        assert tokens.ids.tolist() == encoding.ids, text[:200]
    assert len(texts) > 2000


def test_sentences_are_marked(tiny_tokenizer):
    (tokens,) = Encoder(tiny_tokenizer).encode(["The cat sees a dog. It runs!\n\nA new day"])
    assert np.flatnonzero(tokens.starts).tolist() == [0, 6, 9]


def test_abbreviations_end_no_sentence():
    text = 'Mr. Smith lives in St. Louis. "Why?" she said (see Fig. 3.5). It is so.'
    assert list(sentences(text)) == [
        "Mr. Smith lives in St. Louis.",
        '"Why?" she said (see Fig. 3.5).',
        "It is so.",
    ]


def test_what_is_too_long_for_a_sentence_is_cut_between_words():
    pieces = list(sentences("word " * 10_000))
    assert max(map(len, pieces)) <= MAX_SENTENCE_CHARACTERS
    assert " ".join(pieces) == " ".join(["word"] * 10_000)
    assert "".join(sentences("x" * 25_000)) == "x" * 25_000


def test_text_that_speaks_of_special_tokens_is_text(tiny_tokenizer):
    (tokens,) = Encoder(tiny_tokenizer).encode(["the [PAD] and the [MASK]"])
    assert not set(tokens.ids.tolist()) & {0, 2, 3, 4}


def test_a_cased_tokenizer_keeps_its_case(tiny_tokenizer, tmp_path):
    path = with_normaliser(tiny_tokenizer, tmp_path, lowercase=False)
    upper, lower = Encoder(path).encode(["THE CAT", "the cat"])
    assert upper.ids.tolist() == [1, 1]
    assert 1 not in lower.ids


def test_another_normaliser_is_used_for_all_text(tiny_tokenizer, tmp_path):
    change = {"type": "Replace", "pattern": {"String": "q"}, "content": "cat"}
    path = with_normaliser(tiny_tokenizer, tmp_path, **change)
    replaced, plain = Encoder(path).encode(["the q", "the cat"])
    assert replaced.ids.tolist() == plain.ids.tolist()


def test_a_token_that_was_added_is_found_across_words(tiny_tokenizer, tmp_path):
    tokenizer = open_tokenizer(tiny_tokenizer)
    tokenizer.add_tokens(["cat-dog"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (found,) = Encoder(tmp_path / "tokenizer.json").encode(["the cat-dog"])
    assert found.ids.tolist()[1:] == [tokenizer.token_to_id("cat-dog")]


def test_words_are_known_by_their_first_piece(tiny_tokenizer):
    tokenizer = open_tokenizer(tiny_tokenizer)
    found = continuations(tokenizer)
    assert [tokenizer.id_to_token(int(i)) for i in np.flatnonzero(found)] == ["##s", "##ed"]
    assert len(found) == tokenizer.get_vocab_size()


def test_the_smallest_type_that_holds_a_vocabulary():
    assert id_type(30522) == np.uint16
    assert id_type(65536) == np.uint16
    assert id_type(65537) == np.uint32


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path, tiny_tokenizer):
    vocabulary = json.loads(tiny_tokenizer.read_text())
    vocabulary["added_tokens"] = []
    vocabulary["model"]["vocab"].pop("[MASK]")
    vocabulary["model"]["vocab"].pop("[CLS]")
    vocabulary["post_processor"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=r"has no token \[CLS\], \[MASK\]: a tokenizer has BERT"):
        Encoder(path)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        open_tokenizer(path)
    with pytest.raises(DataError, match="nothing does not exist"):
        open_tokenizer(tmp_path / "nothing")
