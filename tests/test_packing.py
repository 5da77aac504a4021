"""What becomes a row, and where it begins."""

import numpy as np
import pytest

from stages.corpus.packing import pack, stacked
from stages.corpus.reading import SpecialIds
from stages.corpus.tokenising import Tokens
from stages.params import Shards

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def packed(
    *documents: list[list[int]],
    length: int = 6,
    cross_documents: bool = True,
    whole_sentences: bool = False,
) -> list[list[int]]:
    """Rows of documents that are given sentence by sentence."""
    settings = Shards.model_construct(
        sequence_length=length, cross_documents=cross_documents, whole_sentences=whole_sentences
    )
    tokens = []
    for sentences in documents:
        starts = [i == 0 for sentence in sentences for i in range(len(sentence))]
        tokens.append(
            Tokens(
                np.array([i for sentence in sentences for i in sentence]),
                np.array(starts, dtype=np.bool_),
            )
        )
    return [row.ids.tolist() for row in pack(tokens, SPECIAL, settings)]


# Six places a row: [CLS] (2), four tokens, [SEP] (3).


def test_documents_are_packed_end_to_end():
    assert packed([[11, 12, 13]], [[21, 22, 23, 24, 25]]) == [
        [2, 11, 12, 13, 3, 3],  # the separator is the row's last place before its end
        [2, 21, 22, 23, 24, 3],
        [2, 25, 3, 0, 0, 0],
    ]


def test_a_row_that_ends_with_its_document_needs_no_separator():
    assert packed([[11, 12, 13, 14]], [[21]]) == [[2, 11, 12, 13, 14, 3], [2, 21, 3, 0, 0, 0]]


def test_a_full_last_row_is_not_padded():
    assert packed([[11]], [[21, 22]]) == [[2, 11, 3, 21, 22, 3]]


@pytest.mark.parametrize("cross_documents", [True, False])
def test_nothing_is_packed_to_nothing(cross_documents):
    assert packed(cross_documents=cross_documents) == []
    assert packed([[]], cross_documents=cross_documents) == []


def test_rows_of_one_document_only_are_filled_with_what_came_before():
    assert packed(
        [[11, 12, 13, 14, 15]], [[21, 22]], [[31, 32, 33, 34]], cross_documents=False
    ) == [
        [2, 11, 12, 13, 14, 3],
        [2, 12, 13, 14, 15, 3],  # not 15 and padding
        [2, 21, 22, 3, 0, 0],  # shorter than a row: there is nothing to fill it with
        [2, 31, 32, 33, 34, 3],
    ]


def test_a_cut_sentence_stands_whole_in_the_next_row():
    assert packed([[11, 12], [13, 14, 15], [16]], whole_sentences=True) == [
        [2, 11, 12, 13, 14, 3],
        [2, 13, 14, 15, 16, 3],
    ]


def test_a_sentence_that_ends_with_its_row_is_not_repeated():
    assert packed([[11, 12], [13, 14], [15]], whole_sentences=True) == [
        [2, 11, 12, 13, 14, 3],
        [2, 15, 3, 0, 0, 0],
    ]


def test_a_sentence_longer_than_a_row_is_cut():
    assert packed([[11], [12, 13, 14, 15, 16, 17, 18]], whole_sentences=True) == [
        [2, 11, 12, 13, 14, 3],
        [2, 12, 13, 14, 15, 3],  # from its beginning,
        [2, 16, 17, 18, 3, 0],  # and on, since its beginning would never end
    ]


def test_the_first_sentence_of_a_document_is_whole_too():
    assert packed([[11, 12]], [[21, 22, 23], [24]], whole_sentences=True) == [
        [2, 11, 12, 3, 21, 3],
        [2, 21, 22, 23, 24, 3],
    ]


def test_the_last_row_of_a_document_begins_with_the_first_sentence_that_lets_it_end():
    document = [[11, 12, 13], [14], [15, 16]]
    assert packed(document, whole_sentences=True, cross_documents=False) == [
        [2, 11, 12, 13, 14, 3],
        [2, 14, 15, 16, 3, 0],  # 13 would fill it, and is no beginning
    ]


@pytest.mark.parametrize("cross_documents", [True, False])
@pytest.mark.parametrize("whole_sentences", [True, False])
def test_every_token_is_in_a_row_and_every_sentence_in_one(cross_documents, whole_sentences):
    rng = np.random.default_rng(1)
    documents, marks, token = [], [], 10
    for _ in range(40):
        lengths = rng.integers(1, 12, rng.integers(1, 9))
        ids = np.arange(token, token + lengths.sum())
        starts = np.zeros(len(ids), dtype=np.bool_)
        starts[np.cumsum([0, *lengths[:-1]])] = True
        token += len(ids)
        documents.append(Tokens(ids, starts))
        marks += ids[starts].tolist()
    settings = Shards(
        sequence_length=16, cross_documents=cross_documents, whole_sentences=whole_sentences
    )
    (rows,) = stacked(pack(documents, SPECIAL, settings), np.dtype(np.uint16))
    ordinary = rows.ids[rows.ids >= 10]
    assert set(ordinary.tolist()) == set(range(10, token))
    assert set(rows.ids[rows.starts].tolist()) == set(marks)
    assert np.isin(rows.ids[:, 1:][~rows.starts[:, 1:]], marks).sum() == 0
    owner = np.repeat(np.arange(40), [len(document.ids) for document in documents])
    for row in rows.ids:
        text = row[row >= 10]
        if whole_sentences:
            assert text[0] in marks
        if not cross_documents:
            assert len(set(owner[text - 10])) == 1
            assert (np.diff(text) == 1).all()
            if not whole_sentences:
                # Only what is shorter than a row is padded.
                assert len(text) == min(14, np.count_nonzero(owner == owner[text[0] - 10]))
    if not whole_sentences and cross_documents:
        assert ordinary.tolist() == list(range(10, token))
    if cross_documents:
        assert (rows.ids[:-1] != SPECIAL.pad).all()
