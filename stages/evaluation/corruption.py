"""Ways to spoil a sentence so that only reading it tells: some inner words are replaced or moved.

The first and last words, capitals and punctuation stay where they are, and the length hardly
changes, so that none of these gives the answer away.
"""

import re
from collections.abc import Callable

import numpy as np

PLAIN_WORD = re.compile(r"[a-z]+")
"""A word that may be disturbed: no capital, no punctuation."""

Disturb = Callable[[list[str], list[int], list[str], np.random.Generator], list[str]]
"""(tokens, places of inner plain words, words of the corpus, rng) -> tokens."""


def corrupt(sentence: str, words: list[str], rng: np.random.Generator) -> str:
    """Return the sentence with about a third of its inner plain words disturbed in one way."""
    tokens = sentence.split()
    # The outer words stay: a capital inside, or a full stop, would tell at once.
    inner = [i for i in range(1, len(tokens) - 1) if PLAIN_WORD.fullmatch(tokens[i])]
    disturb = CORRUPTIONS[rng.integers(len(CORRUPTIONS))]
    return " ".join(disturb(tokens, inner, words, rng))


def replace_words(
    tokens: list[str], inner: list[int], words: list[str], rng: np.random.Generator
) -> list[str]:
    """Put words of other sentences in the place of some."""
    chosen = set(rng.choice(inner, size=max(2, len(inner) // 3), replace=False).tolist())
    return [words[rng.integers(len(words))] if i in chosen else t for i, t in enumerate(tokens)]


def drop_words(
    tokens: list[str], inner: list[int], words: list[str], rng: np.random.Generator
) -> list[str]:
    """Leave some words out: fewer than a third, or short sentences would be the corrupted ones."""
    del words
    chosen = set(rng.choice(inner, size=max(2, len(inner) // 4), replace=False).tolist())
    return [token for i, token in enumerate(tokens) if i not in chosen]


def swap_words(
    tokens: list[str], inner: list[int], words: list[str], rng: np.random.Generator
) -> list[str]:
    """Exchange the words of some pairs."""
    del words
    chosen = rng.choice(inner, size=2 * (len(inner) // 6 + 1), replace=False).tolist()
    swapped = list(tokens)
    for i, j in zip(chosen[::2], chosen[1::2], strict=True):
        swapped[i], swapped[j] = tokens[j], tokens[i]
    return swapped


def shuffle_words(
    tokens: list[str], inner: list[int], words: list[str], rng: np.random.Generator
) -> list[str]:
    """Put neighbouring words in random order."""
    del words
    size = max(4, 2 * len(inner) // 3)
    first = int(rng.integers(max(1, len(inner) - size + 1)))
    window = inner[first : first + size]
    shuffled = list(tokens)
    for i, j in zip(window, rng.permutation(window), strict=True):
        shuffled[i] = tokens[j]
    return shuffled


CORRUPTIONS: tuple[Disturb, ...] = (replace_words, drop_words, swap_words, shuffle_words)
