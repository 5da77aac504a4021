"""Parquet files: a row is a document."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.corpus.records import Document, Tally
from stages.corpus.sources.files import matching
from stages.errors import DataError
from stages.params import ParquetSource

ROWS_PER_BATCH = 256


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
    columns = [settings.text_column, *filter(None, [settings.title_column])]
    number = 0
    with _open(name, path, settings) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
            texts, *titles = (batch.column(column).to_pylist() for column in columns)
            for i, text in enumerate(texts):
                number += 1
                tally.num_read += 1
                if text is None or not text.strip():
                    tally.documents.add("no_text", f"{path}, row {number}")
                    continue
                title = titles[0][i] if titles else None
                identity = f"{name}:{path.as_posix()}#{number}"
                yield Document(identity, name, str(title or f"{path.stem} {number}"), text)


def _open(name: str, path: Path, settings: ParquetSource) -> pq.ParquetFile:
    """Return a file that has the columns which the settings name.

    Raises:
        DataError: it has not, or is not Parquet.
    """
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not Parquet ({error}); take it out of the pattern") from error
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
