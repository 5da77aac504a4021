"""Settings of the corpus: sources, curation, shards, and what is expected of them."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params.base import Fraction, Name, Positive, Settings


class DocstringsSource(Settings):
    """English prose in the docstrings of installed packages; read with `ast`, never imported."""

    kind: Literal["docstrings"]
    packages: list[str] = Field(min_length=1)
    """Import names, such as `sklearn`."""
    max_megabytes: float | None = Field(default=None, gt=0)
    """Stop after this much clean text; null takes everything."""


class WikipediaSource(Settings):
    """Articles of the hub's wikimedia/wikipedia, one document each."""

    kind: Literal["wikipedia"]
    dataset: str = "wikimedia/wikipedia"
    config: str = "20231101.en"
    max_documents: Positive | None = None


class BookcorpusSource(Settings):
    """Sentences of the hub's bookcorpus, put back together in documents of one length."""

    kind: Literal["bookcorpus"]
    dataset: str = "bookcorpus/bookcorpus"
    config: str = "plain_text"
    sentences_per_document: Positive = 500
    max_documents: Positive | None = None


Source = Annotated[
    DocstringsSource | WikipediaSource | BookcorpusSource, Field(discriminator="kind")
]


class Curate(Settings):
    """Which documents stay, and which of them are held out of training."""

    min_words: Positive = 20
    min_alphabetic_fraction: Fraction = 0.6
    """Share of characters that are letters or spaces; below it the text is code or tables."""
    heldout_fraction: float = Field(gt=0, lt=0.5)


class Shards(Settings):
    """How documents become rows of token ids."""

    sequence_length: int = Field(ge=16, le=512)
    sequences_per_shard: Positive = 4096
    num_ranks: Positive = 4
    """Pieces the work is cut into: part of the data, not of the machine."""
    min_tokens: Positive = 12
    """Documents shorter than this are dropped (DistilBERT drops 11 tokens or fewer)."""
    max_unknown_fraction: Fraction = 0.5
    """Documents with this share of unknown tokens or more are dropped, as DistilBERT does."""


class Expectations(Settings):
    """Bounds on the shards; outside them the graph stops before any training."""

    min_tokens: Positive
    max_unknown_fraction: Fraction
    max_padding_fraction: Fraction = 0.02
    max_duplicate_fraction: Fraction = 0.01
    min_distinct_tokens: Positive
    max_top_token_fraction: Fraction = 0.15


class Corpus(Settings):
    """From raw text to verified shards."""

    sources: dict[Name, Source] = Field(min_length=1)
    curate: Curate
    shards: Shards
    expectations: Expectations
