"""What passes between the corpus stages: documents, and a count of what was dropped and why.

A documents file is Parquet with the columns id, source, title and text (docs/data-format.md).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.command import log
from stages.errors import DataError
from stages.files import atomic_output

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "title", "text")])
ROWS_PER_GROUP = 2_000
CHARACTERS_PER_GROUP = 4_000_000
"""A group is full at either: whole books must not wait for 2,000 of their kind in memory, and who
reads a share of a file reads the groups at its ends whole."""
MAX_WARNINGS = 20
MAX_EXAMPLES = 3
EXCERPT_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a source: paragraphs, separated by a blank line."""

    id: str
    """Unique over all sources."""
    source: str
    """The source's name in params.yaml."""
    title: str
    text: str


@dataclass(slots=True)
class Drops:
    """How often something was dropped for which reason, with the first few excerpts of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        """Count one drop, and remember the text's beginning if it is among the first."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            flat = " ".join(text.split())
            excerpt = flat[:EXCERPT_CHARACTERS]
            examples.append(excerpt if len(flat) <= len(excerpt) else excerpt + "...")

    def __str__(self) -> str:
        """Return the counts as words, for a message."""
        return ", ".join(f"{reason} {count}" for reason, count in self.counts.items()) or "none"

    def __or__(self, other: "Drops") -> "Drops":
        """Return both counts as one; the left side's excerpts come first."""
        merged = Drops(self.counts + other.counts)
        for reason in merged.counts:
            both = self.examples.get(reason, []) + other.examples.get(reason, [])
            merged.examples[reason] = both[:MAX_EXAMPLES]
        return merged


@dataclass(slots=True)
class Tally:
    """What reading or curating one source has counted; drops.json is this and `num_kept`."""

    num_read: int = 0
    """Documents looked at: each is kept, or dropped as a whole."""
    documents: Drops = field(default_factory=Drops)
    paragraphs: Drops = field(default_factory=Drops)
    """Paragraphs that a document lost; the document may have stayed."""
    warnings: list[str] = field(default_factory=list)
    """What was wrong with the files that were read: which, where, and what became of it."""

    def warn(self, message: str) -> None:
        """Log what is wrong with an input that is read all the same, and remember the first few."""
        log.warning("%s", message)
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(message)
        elif len(self.warnings) == MAX_WARNINGS:
            self.warnings.append("there were more warnings; the log has them all")

    def as_json(self) -> dict[str, Any]:
        """Return the counts in the form of drops.json."""
        return {
            "num_read": self.num_read,
            "dropped": dict(self.documents.counts),
            "examples": self.documents.examples,
            "dropped_paragraphs": dict(self.paragraphs.counts),
            "paragraph_examples": self.paragraphs.examples,
            "warnings": self.warnings,
        }

    @classmethod
    def from_json(cls, report: dict[str, Any]) -> "Tally":
        """Return the counts that a drops.json holds."""
        documents = Drops(Counter(report["dropped"]), report["examples"])
        paragraphs = Drops(Counter(report["dropped_paragraphs"]), report["paragraph_examples"])
        return cls(report["num_read"], documents, paragraphs, list(report.get("warnings", [])))

    def include(self, other: "Tally") -> None:
        """Count what another tally has counted, as if it had been counted here after the rest."""
        self.num_read += other.num_read
        self.documents |= other.documents
        self.paragraphs |= other.paragraphs
        self.warnings = [*self.warnings, *other.warnings]


def table_of(documents: list[Document]) -> Any:
    """Return documents as a `pyarrow.Table` of `SCHEMA`."""
    # Names of files and strings in code may hold lone surrogates; UTF-8 may not. Ids stay apart.
    columns = [
        _strings(
            [getattr(row, name) for row in documents],
            errors="backslashreplace" if name == "id" else "replace",
        )
        for name in SCHEMA.names
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _strings(values: list[str], errors: str) -> Any:
    # Not pa.array, which imports pandas to ask whether a list is one of its series: a second.
    encoded = [value.encode(errors=errors) for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    buffers = [pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.StringArray.from_buffers(len(values), *buffers)


class DocumentWriter:
    """Appends documents to a Parquet file in groups of a bounded size."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[Document] = []
        self._num_waiting = 0
        self.num_documents = 0
        self.num_characters = 0

    def write(self, document: Document) -> None:
        """Append one document."""
        self._rows.append(document)
        self.num_documents += 1
        self.num_characters += len(document.text)
        self._num_waiting += len(document.text)
        if len(self._rows) == ROWS_PER_GROUP or self._num_waiting >= CHARACTERS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(table_of(self._rows))
        self._rows = []
        self._num_waiting = 0


@contextmanager
def document_writer(path: Path) -> Iterator[DocumentWriter]:
    """Yield a writer; its file appears at `path` only if the block succeeds."""
    with atomic_output(path) as target:
        writer = DocumentWriter(target)
        try:
            yield writer
        except BaseException:
            # What went wrong is told by this, and not by closing what it has left.
            with suppress(OSError, pa.ArrowException):
                writer.close()
            raise
        writer.close()


@contextmanager
def open_documents(path: Path) -> Iterator[Any]:
    """Yield a documents file as a `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: the file is absent or has other columns, or what the block reads is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != SCHEMA.names:
                raise DataError(f"{path} has columns {file.schema_arrow.names}, not {SCHEMA.names}")
            yield file
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist; run the stage that makes it (dvc repro)"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run dvc repro") from error


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file in its order, a few thousand in memory at a time."""
    with open_documents(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
            for values in zip(*columns, strict=True):
                yield Document(*values)
