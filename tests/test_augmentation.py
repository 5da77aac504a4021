"""TinyBERT's augmentation: which words are replaced, what by, and how many variants come."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM

from stages.errors import DataError
from stages.evaluation.augmentation import STOP_WORDS, WORD, Augmenter, WordSpace, read_glove

SPACE = WordSpace(
    ["catbird", "dogbird", "treehouse", "waterfall"],
    np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], dtype=np.float32),
)


@pytest.fixture
def augmenter(tiny_tokenizer: Path) -> Augmenter:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer))
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
    )
    return Augmenter(model, tokenizer, SPACE, num_candidates=3, probability=0.5, max_length=48)


def test_neighbours_are_nearest_first_without_the_word() -> None:
    assert SPACE.nearest("catbird", 2) == ["dogbird", "treehouse"]
    assert SPACE.nearest("catbird", 9) == ["dogbird", "treehouse", "waterfall"]
    assert SPACE.nearest("unknown", 2) == []


def test_variants_replace_words_and_keep_everything_else(augmenter: Augmenter) -> None:
    sentence = "The king, with a dog: 7 rivers!"
    (variants,) = augmenter.variants([sentence], 20, seed=1)
    assert 1 < len(variants) <= 20
    assert len(set(variants)) == len(variants)
    for variant in variants:
        assert variant != sentence
        words = WORD.findall(variant)
        # Stop words, digits and signs stay; "rivers" is two tokens and not in the word space.
        assert (words[0], words[2], words[3], words[5]) == ("The", "with", "a", "rivers")
        assert WORD.sub("", variant) == WORD.sub("", sentence)
    assert {v.split()[1] for v in variants} - {"king,"}


def test_parts_of_words_are_not_words(augmenter: Augmenter) -> None:
    """Of 3rd no letters are replaced, of isn't nothing, of a name in code and an accented word."""
    sentence = "a 3rd of caf\u00e9, it isn't data_set; the king's"
    (variants,) = augmenter.variants([sentence], 40, seed=1)
    before, after = sentence.split("king")
    assert variants
    assert all(v.startswith(before) and v.endswith(after) for v in variants)


def test_words_that_were_cut_off_stay(augmenter: Augmenter) -> None:
    assert augmenter._proposed([("a " * 40 + "king", 80, 84)]) == [[]]


def test_long_words_get_their_neighbours(augmenter: Augmenter) -> None:
    (variants,) = augmenter.variants(["Catbird"], 30, seed=1)
    assert set(variants) == {"dogbird", "treehouse", "waterfall"}


def test_candidates_are_what_the_model_puts_first(augmenter: Augmenter) -> None:
    """Against the stock model on the same pair, one word at a time; a mask in the text is text."""
    for sentence, begin, masked, which in (
        ("the king sees a dog", 4, "the [MASK] sees a dog", 0),
        ("a [MASK] sees the king", 18, "a [MASK] sees the [MASK]", 1),
    ):
        (candidates,) = augmenter._proposed([(sentence, begin, begin + 4)])
        encoding = augmenter.tokenizer.encode(masked, sentence)
        place = [i for i, token in enumerate(encoding.tokens) if token == "[MASK]"][which]
        with torch.no_grad():
            logits = augmenter.model(
                input_ids=torch.tensor([encoding.ids]),
                token_type_ids=torch.tensor([encoding.type_ids]),
            ).logits[0, place]
        order = [augmenter.tokens[i] for i in logits.argsort(descending=True).tolist()]
        assert candidates == [token for token in order if WORD.fullmatch(token)][:3]


def test_the_same_seed_gives_the_same_variants(augmenter: Augmenter) -> None:
    sentences = ["the king sees a dog", "old river", "of the"]
    first, again = (augmenter.variants(sentences, 5, seed=3) for _ in range(2))
    assert first == again
    assert first[2] == []
    assert augmenter.variants(sentences, 5, seed=4) != first


def test_replacing_nothing_gives_no_variant(augmenter: Augmenter) -> None:
    augmenter.probability = 0.0
    assert augmenter.variants(["the king sees a dog"], 5, seed=3) == [[]]


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    with pytest.raises(DataError, match=r"glove.txt does not exist"):
        read_glove(file)
    file.write_text("king 1 2\nqueen 1\n")
    with pytest.raises(DataError, match="line 2: 1 numbers after the word"):
        read_glove(file)
    file.write_text("king 1 x\n")
    with pytest.raises(DataError, match="line 1: not a word and numbers"):
        read_glove(file)
    file.write_text("king 1 2\nqueen 1 3\nriver 4 5\n")
    assert read_glove(file, max_words=2).words == ["king", "queen"]
    file.write_text("king 1 2\n. . . 1 3\n")
    assert read_glove(file).words == ["king", ". . ."]


def test_real_vectors_are_read(shared_data: Path) -> None:
    (file,) = (shared_data / "glove").glob("*.txt")
    space = read_glove(file)
    assert len(space.words) > 10_000
    assert {"tuesday", "wednesday"} & set(space.nearest("monday", 5))
    assert "the" in STOP_WORDS
