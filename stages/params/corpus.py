"""Settings of the corpus: sources, curation, shards, and what is expected of them."""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.params.base import EachOnce, Fraction, Name, Positive, Settings, Text


class DocstringsSource(Settings):
    """English prose in the docstrings of installed packages; read with `ast`, never imported."""

    kind: Literal["docstrings"]
    packages: Annotated[list[Text], EachOnce] = Field(min_length=1)
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
    """Sentences of the hub's bookcorpus, put back together: chapters, cut where they are long."""

    kind: Literal["bookcorpus"]
    dataset: str = "bookcorpus/bookcorpus"
    config: str = "plain_text"
    sentences_per_document: Positive = 500
    """A document ends after this many, where no chapter has ended before."""
    max_documents: Positive | None = None


def _checked(pattern: str) -> str:
    parts = PurePath(pattern).relative_to(PurePath(pattern).anchor).parts
    if not parts:
        raise ValueError(f"'{pattern}' names no file; a pattern is such as raw/books/*.txt")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"'{pattern}': ** stands for folders, between two slashes: raw/**/*.txt")
    return pattern


class FilesSource(Settings):
    """What all kinds of source have in common that read files of your own."""

    files: Annotated[list[Annotated[str, AfterValidator(_checked)]], EachOnce] = Field(min_length=1)
    """Patterns such as `raw/books/*.txt` or `raw/**/*.jsonl`, seen from the workspace."""
    outside_workspace: bool = False
    """Whether a pattern may be absolute, and a path or a link may lead out of the workspace."""
    max_documents: Positive | None = None


class MediawikiSource(FilesSource):
    """Articles of MediaWiki dumps (`pages-articles`, plain XML or bz2), one document each."""

    kind: Literal["mediawiki"]
    headings: bool = False
    """Whether the headings of sections stay, as paragraphs of their own."""
    lists: Literal["none", "sentences", "all"] = "sentences"
    """Which list items stay, as paragraphs of their own."""


class BooksSource(FilesSource):
    """Plain-text books, one a file: front and back matter removed, hard wraps joined."""

    kind: Literal["books"]
    documents: Literal["chapters", "books"] = "chapters"


class TextSource(FilesSource):
    """Plain-text files of any kind, paragraphs separated by blank lines."""

    kind: Literal["text"]
    documents: Literal["files", "paragraphs"] = "files"


class _ColumnsSource(FilesSource):
    text_column: str = "text"
    title_column: str | None = None
    """Null: the file's name and the row's number."""


class JsonlSource(_ColumnsSource):
    """A JSON object a line, one document each."""

    kind: Literal["jsonl"]


class ParquetSource(_ColumnsSource):
    """A row of a Parquet file, one document each."""

    kind: Literal["parquet"]


Source = Annotated[
    DocstringsSource
    | WikipediaSource
    | BookcorpusSource
    | MediawikiSource
    | BooksSource
    | TextSource
    | JsonlSource
    | ParquetSource,
    Field(discriminator="kind"),
]


class Curate(Settings):
    """Which documents stay, and which of them are held out of training."""

    min_words: Positive = 20
    min_alphabetic_fraction: Fraction = 0.6
    """Share of characters that are letters or spaces; below it the text is code or tables."""
    language: Literal["en"] | None = "en"
    """Documents in another language are dropped; null keeps them all."""
    near_duplicate_similarity: float | None = Field(default=0.8, ge=0.5, lt=1)
    """Documents as alike as this (shared runs of five words) are one; null keeps them all."""
    heldout_fraction: float = Field(gt=0, lt=0.5)


class Shards(Settings):
    """How documents become rows of token ids."""

    sequence_length: int = Field(ge=16, le=512, multiple_of=8)
    num_shards: Positive = 4
    """Files of a split, each made from its share of the documents: part of the data, not of the
    machine."""
    cross_documents: bool = False
    """Fill rows across the borders of documents, with `[SEP]` between them. Without it, documents
    shorter than a row are padded."""
    whole_sentences: bool = False
    """Begin every row where a sentence begins; one that is cut by a row's end stands again, whole,
    in the next."""
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
    max_shared_fraction: Fraction = 0.0
    """Of the held-out rows: how many may be rows of the training split too."""
    min_distinct_tokens: Positive
    max_top_token_fraction: Fraction = 0.15
    max_mojibake_fraction: Fraction = 0.0001
    """Of the characters: UTF-8 that was read as another encoding."""
    max_foreign_fraction: Fraction = 0.1
    """Of the tokens: documents that hardly use the commonest English words. Set 1 for another
    language."""
    max_token_drift: Fraction = 0.1
    """Of the tokens: how many would have to be others for the previous version's frequencies."""
    max_length_drift: Fraction = 0.15
    """Of the documents: likewise, for the lengths of the previous version's documents."""
    max_source_drift: Fraction = 0.1
    """Of the tokens: likewise, for the shares of the previous version's sources."""


class Corpus(Settings):
    """From raw text to verified shards."""

    sources: dict[Name, Source] = Field(min_length=1)
    curate: Curate
    shards: Shards
    expectations: Expectations
