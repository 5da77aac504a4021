"""What a corpus looks like in outline, and how far it is from the version before it.

The outline is a few kilobytes of JSON that git keeps (reports/corpus_versions.json). Of each kind
of corpus, by sources and tokenizer, it holds the last that was found good, and the one before that,
so that judging the same corpus again gives the same verdict. Another profile in between does not
matter.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.files import read_json, sha256_of

NUM_TOKENS = 1000
"""The most frequent tokens are told apart; all others are one."""


@dataclass(frozen=True, slots=True)
class Outline:
    """The shares that make up a corpus; each sums to 1."""

    digest: str
    """The sha256 of the manifest."""
    tokenizer_sha256: str
    sources: dict[str, float]
    lengths: dict[str, float]
    """Documents by the binary logarithm of their tokens."""
    tokens: dict[str, float]

    def is_comparable(self, other: "Outline") -> bool:
        """Return whether both have the same sources and tokenizer."""
        return (
            self.tokenizer_sha256 == other.tokenizer_sha256
            and self.sources.keys() == other.sources.keys()
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """How much would have to be other than it is for the previous version's distribution.

    A share; None where there is nothing to compare.
    """

    token_distance: float | None
    """Of the tokens."""
    length_distance: float | None
    """Of the documents."""
    source_distance: float | None
    """Of the tokens."""


def outline(shards: Path, counts: NDArray[np.int64]) -> Outline:
    """Return the outline of the training split.

    Args:
        shards: The shards folder.
        counts: How often each id stands in the split, special tokens not counted.
    """
    manifest = read_json(shards / "manifest.json")
    split = manifest["splits"]["train"]
    frequent = np.argsort(-counts, kind="stable")[:NUM_TOKENS]
    tokens = {str(i): int(counts[i]) for i in sorted(frequent) if counts[i]}
    return Outline(
        digest=sha256_of(shards / "manifest.json"),
        tokenizer_sha256=manifest["tokenizer_sha256"],
        sources=_shares(split["tokens"]),
        lengths=_shares(split["lengths"]),
        tokens=_shares(tokens | {"others": int(counts.sum()) - sum(tokens.values())}),
    )


def previous_of(path: Path, current: Outline) -> Outline | None:
    """Return the version before this one, None if there is none.

    Another tokenizer, or other names among the sources, make another corpus.
    """
    return next(
        (one for one in _others(path, current) if one.is_comparable(current)),
        None,
    )


def drift(current: Outline, previous: Outline | None) -> Drift:
    """Return how far a corpus is from its previous version."""
    if previous is None:
        return Drift(None, None, None)
    return Drift(
        token_distance=_distance(current.tokens, previous.tokens),
        length_distance=_distance(current.lengths, previous.lengths),
        source_distance=_distance(current.sources, previous.sources),
    )


def versions_json(path: Path, current: Outline) -> dict[str, Any]:
    """Return what the file holds once the current version is found good."""
    previous = previous_of(path, current)
    others = [one for one in _others(path, current) if not one.is_comparable(current)]
    newest = [current, *([] if previous is None else [previous])]
    return {"versions": [asdict(one) for one in [*newest, *others]]}


def _others(path: Path, current: Outline) -> list[Outline]:
    kept = [Outline(**one) for one in read_json(path)["versions"]] if path.exists() else []
    return [one for one in kept if one.digest != current.digest]


def _shares(counts: dict[str, int]) -> dict[str, float]:
    total = max(sum(counts.values()), 1)
    # Six digits tell any drift that matters, and keep the file small.
    return {name: round(count / total, 6) for name, count in sorted(counts.items())}


def _distance(left: dict[str, float], right: dict[str, float]) -> float:
    """Return the total variation distance of two distributions."""
    names = left.keys() | right.keys()
    return sum(abs(left.get(name, 0) - right.get(name, 0)) for name in names) / 2
