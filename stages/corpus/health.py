"""What can be seen of a text's condition while it is tokenised: damage, language, lengths, origin.

Counts only, so that those of any shards can be added. Great Expectations judges what they come to
(stages.corpus.expectations).
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.corpus.tokenizer_file import BYTE_SPACE

COMMON_WORDS = """
    the of and to that was for with is it as his her by from they this have which were not but had
    are be she you or their has been would when there who will can if its
""".split()  # noqa: SIM905
"""English words that no English text can do without, and that other languages do not share."""
MIN_COMMON_FRACTION = 0.06
"""Of the words. English prose has some 25 %, the driest docstrings 6."""

_CONTINUATION = (
    "[\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = re.compile(
    f"[\xc2-\xdf]{_CONTINUATION}|[\xe0-\xef]{_CONTINUATION}{{2}}|[\xf0-\xf4]{_CONTINUATION}{{3}}"
    "|\ufffd"
)
"""UTF-8 that was read as Latin-1 or Windows-1252, and characters that could not be read at all."""


def num_mojibake(text: str) -> int:
    """Return how many characters of a text were decoded wrongly, as far as one can tell."""
    foreign = [paragraph for paragraph in text.split("\n\n") if not paragraph.isascii()]
    return sum(1 for paragraph in foreign for _ in _MOJIBAKE.finditer(paragraph))


def common_ids(vocabulary: dict[str, int], vocabulary_size: int) -> NDArray[np.bool_]:
    """Return for each id whether it is one of COMMON_WORDS."""
    common = np.zeros(vocabulary_size, dtype=np.bool_)
    written = [space + word for space in ("", BYTE_SPACE) for word in COMMON_WORDS]
    common[[vocabulary[word] for word in written if word in vocabulary]] = True
    return common


@dataclass(slots=True)
class Health:
    """Counts over the documents of a shard, or of many."""

    num_characters: int = 0
    num_mojibake: int = 0
    num_foreign_tokens: int = 0
    """Tokens of documents that hardly use COMMON_WORDS."""
    tokens: Counter[str] = field(default_factory=Counter)
    """Tokens of each source."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents of 2^(n-1) to 2^n - 1 tokens, by n."""

    def add(
        self,
        source: str,
        text: str,
        ids: NDArray[Any],
        common: NDArray[np.bool_],
        continuations: NDArray[np.bool_],
    ) -> None:
        """Count one document; the last two tell for each id whether it is common, or no word."""
        self.num_characters += len(text)
        self.num_mojibake += num_mojibake(text)
        num_words = len(ids) - np.count_nonzero(continuations[ids])
        if np.count_nonzero(common[ids]) < MIN_COMMON_FRACTION * num_words:
            self.num_foreign_tokens += len(ids)
        self.tokens[source] += len(ids)
        self.lengths[len(ids).bit_length()] += 1

    def as_json(self) -> dict[str, Any]:
        """Return the counts as a part of a shard's description."""
        return {
            "num_characters": self.num_characters,
            "num_mojibake": self.num_mojibake,
            "num_foreign_tokens": self.num_foreign_tokens,
            "tokens": self.tokens,
            "lengths": self.lengths,
        }
