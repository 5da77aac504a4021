"""Which tokens a masked language model must restore: DistilBERT's frequency-smoothed masking.

The budget is a share of the whole batch and not of each sequence, and rare tokens are drawn more
often: probability proportional to count^-power (huggingface distillation, `token_probs`).
"""

import numpy as np
from numpy.typing import NDArray

from stages.corpus.reading import SpecialIds

IGNORED = -100
"""The label of a position that has nothing to restore."""


def masking_weights(
    token_counts: NDArray[np.int64], special: SpecialIds, smoothing: float
) -> NDArray[np.float64]:
    """Return how likely each token is to be masked, relative to others; special tokens never are.

    Args:
        token_counts: Occurrences in the corpus, by token id; 0 counts as 1.
        special: The ids that must never be masked.
        smoothing: The power; 0.7 in DistilBERT, 0 makes every token alike.
    """
    weights = np.maximum(token_counts, 1).astype(np.float64) ** -smoothing
    weights[[special.pad, special.unk, special.cls, special.sep, special.mask]] = 0.0
    return weights


def mask_batch(
    ids_BS: NDArray[np.int64],
    weights_V: NDArray[np.float64],
    special: SpecialIds,
    fraction: float,
    rng: np.random.Generator,
    continuations_V: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return masked inputs and labels of one batch, both B x S.

    ceil(fraction x real tokens) positions are drawn without replacement; of them 80 % become
    [MASK], 10 % a token drawn uniformly from the vocabulary, 10 % stay. With `continuations_V`,
    which tells the tokens that continue a word, whole words are drawn, up to that many tokens.
    """
    flat = ids_BS.reshape(-1)
    weights = weights_V[flat]
    budget = int(np.ceil(fraction * np.count_nonzero(flat != special.pad)))
    budget = min(budget, int(np.count_nonzero(weights)))
    if continuations_V is None:
        chosen = np.sort(np.argpartition(_draw(weights, rng), max(budget - 1, 0))[:budget])
    else:
        chosen = _whole_words(continuations_V[flat], weights, budget, rng)

    labels = np.full_like(flat, IGNORED)
    labels[chosen] = flat[chosen]
    inputs = flat.copy()
    fate = rng.random(chosen.size)
    inputs[chosen[fate < 0.8]] = special.mask
    swapped = chosen[fate >= 0.9]
    inputs[swapped] = rng.integers(0, len(weights_V), size=swapped.size)
    return inputs.reshape(ids_BS.shape), labels.reshape(ids_BS.shape)


def importance_of(
    labels_BS: NDArray[np.int64],
    real_BS: NDArray[np.bool_],
    fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw where soft targets are compared, and say how many positions each stands for (B x S).

    Masked positions stand for themselves. Of the other real ones a share is drawn without
    replacement, and each of those stands for all that it was drawn from: the sum over drawn
    positions, each times its importance, has the sum over all real ones as its expectation.
    """
    masked = labels_BS.reshape(-1) != IGNORED
    others = np.flatnonzero(real_BS.reshape(-1) & ~masked)
    drawn = rng.choice(others, size=int(np.ceil(fraction * others.size)), replace=False)
    importance = masked.astype(np.float32)
    importance[drawn] = others.size / max(drawn.size, 1)
    return importance.reshape(labels_BS.shape)


def _draw(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return keys whose order is that of a weighted draw without replacement."""
    # Exponential/weight is such a key (Efraimidis and Spirakis 2006): one pass, where drawing one
    # after the other takes as many as there are masks.
    with np.errstate(divide="ignore"):
        return rng.exponential(size=weights.size) / weights


def _whole_words(
    continues: NDArray[np.bool_],
    weights: NDArray[np.float64],
    budget: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the positions of words drawn by the mean weight of their tokens, `budget` at most.

    With equal weights every word is as likely, whatever its length, as in BERT's whole-word models.
    """
    begins = ~continues
    # A row may begin within a word, and then [CLS] is not the word's beginning.
    begins[1:] |= weights[:-1] == 0
    begins[0] = True
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=weights.size)
    order = np.argsort(_draw(np.add.reduceat(weights, starts) / sizes, rng))
    num_words = np.count_nonzero(np.cumsum(sizes[order]) <= budget)
    drawn = order[: max(num_words, min(budget, 1))]
    word_of = np.repeat(np.arange(starts.size), sizes)
    return np.flatnonzero(np.isin(word_of, drawn))
