"""Pairs of segments, read from the rows that masked language modelling is trained on."""

import itertools

import numpy as np
import pytest
import torch

from stages.corpus.reading import open_split
from stages.distillation.phases import Stretch, batches_of
from stages.params import Distill, Masking, Phase
from stages.training.batches import PairBatches
from stages.training.pairs import sentence_pairs
from tests.test_recipes import loss_of, padded_batch
from tests.tiny_shards import SPECIAL, write_shards

LENGTH, VOCABULARY = 24, 5000


def rows_of_sentences(folder, num_rows=40, separated=(), every=5):
    """Rows that count on from one to the next, so that any run of text is known by its numbers.

    A sentence begins at every so many tokens; a row in `separated` has a separator at place 10.
    """
    ids = np.arange(num_rows * LENGTH).reshape(num_rows, LENGTH) + 5
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    ids[list(separated), 10] = SPECIAL.sep
    starts = np.zeros(ids.shape, dtype=np.bool_)
    starts[:, 1:-1:every] = True
    write_shards(folder, {"train": [ids], "heldout": [ids]}, VOCABULARY, starts)
    return open_split(folder, "train")


def halves(ids, segments):
    """The two segments of a pair without their special tokens."""
    real = ids != SPECIAL.pad
    first, second = ids[real & (segments == 0)], ids[real & (segments == 1)]
    assert first[0] == SPECIAL.cls
    assert first[-1] == second[-1] == SPECIAL.sep
    return first[1:-1], second[:-1]


# With 7 a sentence begins at a row's last token, which leaves no room for a second segment.
@pytest.mark.parametrize("every", [5, 7])
def test_pairs_are_two_segments_of_one_row_or_of_two(tmp_path, every):
    # Of so few that the other row would often be the same, were it any.
    sequences = rows_of_sentences(tmp_path / "shards", 4, every=every)
    indices = np.tile(np.arange(4), 10)
    pairs = sentence_pairs(sequences, indices, np.random.default_rng(0))
    assert 10 < pairs.is_next_B.sum() < 30
    for i, index in enumerate(indices):
        first, second = halves(pairs.ids_BS[i], pairs.segments_BS[i])
        text = sequences.rows(np.array([index]))[0]
        assert first[0] == text[1]
        for segment in (first, second):
            assert (np.diff(segment) == 1).all()
            assert SPECIAL.sep not in segment
        # B begins where a sentence begins.
        assert (second[0] - 5) % LENGTH % every == 1
        assert (second[0] == first[-1] + 1) == pairs.is_next_B[i]
        if not pairs.is_next_B[i]:
            assert second[0] not in text


def test_of_a_row_of_several_documents_one_is_taken(tmp_path):
    sequences = rows_of_sentences(tmp_path / "shards", separated=range(40))
    pairs = sentence_pairs(sequences, np.arange(40), np.random.default_rng(0))
    for ids, segments, row in zip(
        pairs.ids_BS, pairs.segments_BS, sequences.rows(np.arange(40)), strict=True
    ):
        first, _second = halves(ids, segments)
        assert first[0] == row[11]  # twelve tokens stand after the separator, nine before it


def test_the_lengths_do_not_tell_the_label(tmp_path):
    sequences = rows_of_sentences(tmp_path / "shards")
    pairs = sentence_pairs(sequences, np.arange(40), np.random.default_rng(2))
    lengths = (pairs.ids_BS != SPECIAL.pad).sum(axis=1)
    # One token of a full row gives way to the second separator.
    assert (lengths == LENGTH).all()


def test_batches_of_pairs_are_functions_of_seed_and_step(tmp_path):
    sequences = rows_of_sentences(tmp_path / "shards")
    walked, fresh = (PairBatches(sequences, 8, 3, Masking()) for _ in range(2))
    for step in range(7):
        walked(step)
    batch = fresh(7)
    for name, tensor in walked(7).items():
        assert torch.equal(tensor, batch[name])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "token_type_ids"}
    # The same rows an epoch later are other pairs.
    again = fresh(12)
    assert sorted(fresh.order.indices(7)) != sorted(fresh.order.indices(12))
    assert not torch.equal(batch["token_type_ids"], again["token_type_ids"])
    assert int((batch["labels"] != -100).sum()) == int(
        np.ceil(0.15 * int(batch["attention_mask"].sum()))
    )


@pytest.mark.parametrize("kind", ["soft_targets", "hidden_states", "attention_scores"])
def test_student_and_teacher_are_told_the_segments_whatever_is_read_of_them(kind):
    loss = loss_of({"kind": kind}).eval()
    batch = padded_batch()
    segments = torch.zeros_like(batch["input_ids"])
    segments[:, 5:] = 1

    def value(of_student, of_teacher):
        """The loss where each is told of the segments, or of one."""
        given = batch | {"token_type_ids": segments}
        for model, told in ((loss.student, of_student), (loss.teacher.models[0], of_teacher)):
            model.config.type_vocab_size = 2 if told else 1
        with torch.no_grad():
            return loss(given, loss.counts(given))[0].item()

    values = [value(*told) for told in itertools.product([False, True], repeat=2)]
    assert len(set(values)) == 4
    one = batch | {"token_type_ids": torch.zeros_like(segments)}
    counts = loss.counts(batch)
    assert loss(one, counts)[0].item() == pytest.approx(loss(batch, counts)[0].item())


def test_a_phase_of_pairs_is_made_of_them(tmp_path):
    sequences = rows_of_sentences(tmp_path / "shards")
    settings = Distill(
        temperature=2, heldout_sequences=1,
        schedule={"num_steps": 1, "batch_sequences": 8, "learning_rate": 1, "warmup_fraction": 0},
    )  # fmt: skip
    loss = loss_of({"kind": "mlm"})
    for pairs in (False, True):
        phase = Phase(name="one", objectives=[{"kind": "mlm"}], pairs=pairs)
        stretch = Stretch("one", phase, settings.schedule, settings.masking, 1)
        batch = batches_of(stretch, loss, sequences, settings, 3)(0)
        assert ("token_type_ids" in batch) == pairs
