"""What is seen of a text's condition while it is tokenised."""

import numpy as np

from stages.corpus.health import Health, common_ids, num_mojibake

PROSE = "It is the price that they had to pay, and it was not what she would have wanted for her."


def test_text_that_was_decoded_wrongly_is_seen():
    text = "He said \u201cI can\u2019t \u2013 it\u2019s na\u00efve \u00e9t\u00e9 talk\u201d."
    assert num_mojibake(text) == 0
    # Six characters past ASCII, each two or three others now.
    assert num_mojibake(text.encode().decode("cp1252", errors="replace")) >= 6
    assert num_mojibake("r\u00e9sum\u00e9".encode().decode("latin-1")) == 2
    assert num_mojibake("one \ufffd\n\ntwo \ufffd lost \ufffd") == 3


def test_text_that_only_looks_foreign_is_left_alone():
    for text in (
        "d\u00e9j\u00e0 vu\u2014\u201c\u00e9t\u00e9\u201d",
        "\u00dcber \u00c4rzte",
        "\u4e2d",
        "\u00bd \u00a3",
    ):
        assert num_mojibake(text) == 0


def test_common_words_are_known_with_their_space_too():
    vocabulary = {"the": 0, "\u0120of": 1, "cat": 2, "\u0120cat": 3}
    assert common_ids(vocabulary, 5).tolist() == [True, True, False, False, False]


def test_documents_without_the_commonest_words_are_foreign():
    vocabulary = {word: i for i, word in enumerate(sorted(set(PROSE.lower().split())))}
    common = common_ids(vocabulary, 40)
    english = np.array([vocabulary[word] for word in PROSE.lower().split()])
    health, pieces = Health(), np.arange(40) == 39
    health.add("books", PROSE, english, common, pieces)
    assert health.num_foreign_tokens == 0
    health.add("web", "lorem", np.full(9, 38), common, pieces)
    assert health.num_foreign_tokens == 9
    # However many pieces a tokenizer makes of the other words.
    health.add("books", PROSE, np.concatenate([english, np.full(900, 39)]), common, pieces)
    assert health.num_foreign_tokens == 9
    assert health.tokens == {"books": 2 * len(english) + 900, "web": 9}
    assert health.lengths == {5: 1, 4: 1, 10: 1}
    assert health.num_characters == 2 * len(PROSE) + 5
