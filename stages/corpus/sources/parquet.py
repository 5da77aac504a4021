"""Parquet files: a row is a document."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus.records import Document, Tally
from stages.corpus.sources.files import decoded, matching, tell_of_bytes
from stages.errors import DataError
from stages.params import ParquetSource

ROWS_PER_BATCH = 32
"""A row may be a whole book, and is held three times."""
BUFFER_BYTES = 1 << 20


def documents(
    name: str,
    settings: ParquetSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield the texts of all rows that hold one, file by file in the order of their names."""
    paths = matching(name, settings, tally)
    for path in paths:
        # All of them before any is read: a mistake shows at once, not after hours.
        _open(name, path, settings).close()
    found = (document for path in paths for document in _documents_of(name, path, settings, tally))
    yield from islice(found, settings.max_documents)


def _documents_of(
    name: str, path: Path, settings: ParquetSource, tally: Tally
) -> Iterator[Document]:
    columns = list(filter(None, [settings.text_column, settings.title_column]))
    number = num_bad = 0
    with _open(name, path, settings) as file:
        for batch in _batches(path, file, list(dict.fromkeys(columns))):
            (texts, *titles), nums_bad = zip(
                *(_values(batch.column(name)) for name in columns), strict=True
            )
            num_bad += sum(nums_bad)
            for i, text in enumerate(texts):
                number += 1
                tally.num_read += 1
                if text is None or not text.strip():
                    tally.documents.add("no_text", f"{path}, row {number}")
                    continue
                title = titles[0][i] if titles else None
                identity = f"{name}:{path.as_posix()}#{number}"
                yield Document(identity, name, str(title or f"{path.stem} {number}"), text)
    tell_of_bytes(path, num_bad, tally)


def _batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    num_rows = 0
    try:
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
            num_rows += len(batch)
            yield batch
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is damaged after row {num_rows}: {error}; fetch it again, or take it out of "
            "the pattern"
        ) from error


def _values(column: pa.Array) -> tuple[list[Any], int]:
    """Return a column's values, and how many bytes of its strings are not UTF-8."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pylist(), 0
    # As bytes: nothing makes sure that the strings of a file are UTF-8.
    stored = column.cast(pa.large_binary()).to_pylist()
    found = [(None, 0) if data is None else decoded(data) for data in stored]
    return [text for text, _ in found], sum(num_bad for _, num_bad in found)


def _open(name: str, path: Path, settings: ParquetSource) -> pq.ParquetFile:
    """Return a file that has the columns which the settings name.

    Raises:
        DataError: it has not, or is not Parquet.
    """
    try:
        # Piece by piece: a row group may be a whole file, and would be in memory as a whole.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not Parquet, or is damaged ({error}); take it out of the pattern"
        ) from error
    schema = file.schema_arrow
    for column in filter(None, [settings.text_column, settings.title_column]):
        if column not in schema.names:
            raise DataError(
                f"{path} has no column '{column}', only {schema.names}; set "
                f"corpus.sources.{name}.text_column (and title_column) to what it has"
            )
    kind = schema.field(settings.text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: column '{settings.text_column}' holds {kind}, not strings")
    return file
