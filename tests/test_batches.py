"""Batches and masks are functions of (seed, step), and masks are drawn as DistilBERT draws them."""

import numpy as np
import pytest
import torch

from stages.params import Masking
from stages.training.ahead import Ahead
from stages.training.batches import Batch, MaskedBatches, Order, micro_batches, share, with_rows
from stages.training.masking import importance_of, mask_batch, masking_weights
from tests.tiny_models import SPECIAL, VOCABULARY, batches, tiny_sequences


def test_every_epoch_visits_every_item_once_in_another_order() -> None:
    order = Order(10, 5, seed=1)
    first = np.concatenate([order.indices(step) for step in (0, 1)])
    second = np.concatenate([order.indices(step) for step in (2, 3)])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_a_batch_runs_on_into_the_next_epoch() -> None:
    order = Order(10, 4, seed=1)
    across = order.indices(2)
    assert list(across[:2]) == list(Order(10, 10, seed=1).indices(0)[8:])
    assert list(across[2:]) == list(Order(10, 10, seed=1).indices(1)[:2])


def test_a_batch_does_not_depend_on_the_batches_before_it() -> None:
    walked, fresh = batches(), batches()
    for step in range(7):
        walked(step)
    for name, tensor in walked(3).items():
        torch.testing.assert_close(tensor, fresh(3)[name])


def test_a_fixed_part_is_spread_over_all_and_as_long_as_it_is_asked_for() -> None:
    source = batches(batch_size=7)  # of 40 rows
    found = list(source.fixed(10))
    assert [len(batch["labels"]) for batch in found] == [7, 3]
    rows = [torch.where(b["labels"] < 0, b["input_ids"], b["labels"]) for b in found]
    assert np.array_equal(torch.cat(rows), source.sequences.rows(np.arange(0, 40, 4)))
    assert sum(len(batch["labels"]) for batch in source.fixed(99)) == 40


def test_another_step_masks_other_tokens() -> None:
    # 40 rows in batches of 40: steps 0 and 1 hold the same rows.
    source = MaskedBatches(tiny_sequences(), 40, 3, Masking())
    assert int((source(0)["labels"] != -100).sum()) == int((source(1)["labels"] != -100).sum())
    assert not torch.equal(
        source(0)["labels"].flatten().sort().values, source(1)["labels"].flatten().sort().values
    )


def test_budget_is_a_share_of_the_real_tokens_of_the_whole_batch() -> None:
    # 40 rows of 12 with 6 padded tokens: ceil(0.15 * 474) = 72
    batch = MaskedBatches(tiny_sequences(), 40, 3, Masking())(0)
    assert int((batch["labels"] != -100).sum()) == 72
    assert int(batch["attention_mask"].sum()) == 474


def test_rare_tokens_are_masked_more_often() -> None:
    # recipes: p(count 0) / p(count 1000) at power 0.7; a count of 0 is taken as 1
    counts = np.zeros(10, dtype=np.int64)
    counts[9] = 1000
    weights = masking_weights(counts, SPECIAL, 0.7)
    assert weights[8] / weights[9] == pytest.approx(125.892541179, rel=1e-9)
    assert not weights[[0, 1, 2, 3, 4]].any()
    assert len(set(masking_weights(counts, SPECIAL, 0.0)[5:])) == 1


def test_masked_tokens_become_mask_random_or_stay_eight_to_one_to_one() -> None:
    rows = np.full((100, 102), 50)
    weights = masking_weights(np.ones(VOCABULARY, dtype=np.int64), SPECIAL, 0.7)
    inputs, labels = mask_batch(rows, weights, SPECIAL, 0.5, np.random.default_rng(0))
    chosen = inputs[labels != -100]
    assert chosen.size == 5100
    assert (labels[labels != -100] == 50).all()
    assert (inputs[labels == -100] == 50).all()
    assert (chosen == SPECIAL.mask).mean() == pytest.approx(0.8, abs=0.02)
    assert (chosen == 50).mean() == pytest.approx(0.1, abs=0.02)


def test_special_tokens_are_never_masked() -> None:
    rows = tiny_sequences().rows(np.arange(40))
    weights = masking_weights(np.ones(VOCABULARY, dtype=np.int64), SPECIAL, 0.7)
    _, labels = mask_batch(rows, weights, SPECIAL, 0.99, np.random.default_rng(0))
    assert labels[labels != -100].min() > SPECIAL.mask
    # more budget than there is to mask: everything that may be masked is
    assert (labels != -100).sum() == (rows > SPECIAL.mask).sum()


def test_shares_of_all_processes_are_the_global_batch() -> None:
    batch = batches(batch_size=7)(0)
    for world_size in (1, 2, 3):
        parts = [share(batch, rank, world_size)["input_ids"] for rank in range(world_size)]
        torch.testing.assert_close(torch.cat(parts), batch["input_ids"])
    pieces = [piece["labels"] for piece in micro_batches(batch, 3)]
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(pieces), batch["labels"])


def test_sampled_positions_stand_for_all_real_ones() -> None:
    batch = batches(batch_size=40, sampled_fraction=0.25)(0)
    importance, masked = batch["importance"], batch["labels"] != -100
    # 474 real tokens, 72 of them masked: a quarter of 402 is ceil(100.5), each for 402 / 101
    assert set(importance[masked].tolist()) == {1.0}
    others = importance[(importance > 0) & ~masked]
    assert len(others) == 101
    assert others.unique().item() == pytest.approx(402 / 101)
    assert importance.sum().item() == pytest.approx(474)
    assert not importance[batch["attention_mask"] == 0].any()


def test_sums_over_sampled_positions_have_the_sum_over_all_as_their_expectation() -> None:
    rng = np.random.default_rng(5)
    values = rng.exponential(size=(8, 25))
    real = np.ones((8, 25), dtype=bool)
    real[:, 20:] = False
    labels = np.where(rng.random((8, 25)) < 0.15, 7, -100) * real - 100 * ~real
    sums = np.array([(importance_of(labels, real, 0.2, rng) * values).sum() for _ in range(2000)])
    standard_error = sums.std() / np.sqrt(len(sums))
    assert sums.mean() == pytest.approx(values[real].sum(), abs=4 * standard_error)
    assert standard_error < 0.01 * sums.mean()


def test_sampling_leaves_masks_as_they_are_and_depends_on_the_step_alone() -> None:
    plain, sampled, fresh = batches(), batches(sampled_fraction=0.3), batches(sampled_fraction=0.3)
    for step in range(4):
        torch.testing.assert_close(plain(step)["labels"], sampled(step)["labels"])
    torch.testing.assert_close(sampled(3)["importance"], fresh(3)["importance"])
    assert not torch.equal(sampled(2)["importance"], sampled(3)["importance"])


def test_rows_with_labels_come_first() -> None:
    batch = {"labels": torch.tensor([[-100, 4, -100], [9, -100, -100]])}
    wanted = torch.tensor([[True, True, False], [True, True, False]])
    importance = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    found = with_rows(batch, wanted, importance)
    assert found["rows"].tolist() == [1, 3, 0, 4]
    assert found["row_labels"].tolist() == [4, 9]
    assert found["row_importance"].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_whole_words_are_masked_or_left() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(5, 40, size=(30, 32))
    rows[:, 0], rows[:, -1] = SPECIAL.cls, SPECIAL.sep
    rows[:, 1] = 30  # a row may begin within a word
    continuations = np.arange(40) >= 20
    weights = masking_weights(np.ones(40, dtype=np.int64), SPECIAL, 0.0)
    inputs, labels = mask_batch(rows, weights, SPECIAL, 0.15, rng, continuations)
    chosen = labels != -100
    budget = int(np.ceil(0.15 * rows.size))
    assert budget - 10 < chosen.sum() <= budget
    assert not chosen[:, [0, -1]].any()
    for row, mask in zip(rows, chosen, strict=True):
        # A piece shares the fate of the token before it, unless that is [CLS].
        pieces = np.flatnonzero(continuations[row])
        pieces = pieces[pieces > 1]
        assert (mask[pieces] == mask[pieces - 1]).all()
    assert (labels[chosen] == rows[chosen]).all()
    assert (inputs[~chosen] == rows[~chosen]).all()


def test_every_word_is_as_likely_whatever_its_length() -> None:
    # Words of one and of three tokens by turns, equal weights: half of the masked words are long.
    rng = np.random.default_rng(1)
    rows = np.tile([10, 11, 30, 31], (200, 8))
    continuations = np.arange(40) >= 30
    weights = masking_weights(np.ones(40, dtype=np.int64), SPECIAL, 0.0)
    _, labels = mask_batch(rows, weights, SPECIAL, 0.15, rng, continuations)
    short, long = int((labels == 10).sum()), int((labels == 11).sum())
    assert short + 3 * long == pytest.approx(0.15 * rows.size, abs=3)
    assert short / (short + long) == pytest.approx(0.5, abs=0.05)


def test_batches_made_ahead_are_the_same_from_whatever_step_and_none_is_made_beyond() -> None:
    plain, asked = batches(), []

    def noting(step: int) -> Batch:
        asked.append(step)
        return batches()(step)

    with Ahead(noting, 6) as ahead:
        for step in (0, 1, 4, 5):
            for name, tensor in ahead(step).items():
                assert torch.equal(tensor, plain(step)[name])
    # Step 2 had been begun when step 4 was asked for instead.
    assert asked == [0, 1, 2, 4, 5]


def test_what_goes_wrong_in_a_batch_made_ahead_is_raised_where_it_is_asked_for() -> None:
    def failing(step: int) -> Batch:
        if step == 1:
            raise OSError("the disk is gone")
        return batches()(step)

    with Ahead(failing, 3) as ahead:
        ahead(0)
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(1)


def test_batches_made_ahead_have_the_order_of_their_own() -> None:
    with Ahead(batches(), 3) as ahead:
        ahead(0)
        assert list(ahead.order.indices(2)) == list(batches().order.indices(2))
