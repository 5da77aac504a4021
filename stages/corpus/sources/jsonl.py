"""JSONL files: an object a line, one document each."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from stages.corpus.records import Document, Tally
from stages.corpus.sources.files import decoded, documents_of_files, tell_of_bytes
from stages.errors import DataError
from stages.params import JsonlSource

MAX_LINE_BYTES = 64 << 20
"""A longer line is taken in pieces, none of which is an object: it is counted, and not held."""


def documents(
    name: str,
    settings: JsonlSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield the texts of all lines that hold one; lines that are no JSON object are counted."""
    yield from documents_of_files(name, settings, tally, _documents_of)


def _documents_of(name: str, path: Path, settings: JsonlSource, tally: Tally) -> Iterator[Document]:
    """Yield the documents of one file.

    Raises:
        DataError: its first object has not the keys that the settings name.
    """
    wanted = [settings.text_column, *filter(None, [settings.title_column])]
    is_checked = False
    num_bad = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            row, num_new = _object(line)
            num_bad += num_new
            if row is not None and not is_checked:
                missing = [key for key in wanted if key not in row]
                if missing:
                    raise DataError(
                        f"{path}, line {number}: has no key '{missing[0]}', only {sorted(row)}; "
                        f"set corpus.sources.{name}.text_column (and title_column) to what it has"
                    )
                is_checked = True
            tally.num_read += 1
            text = None if row is None else row.get(settings.text_column)
            if not isinstance(text, str) or not text.strip():
                reason = "not_json" if row is None else "no_text"
                if not tally.documents.counts[reason]:
                    tally.warn(f"{path}, line {number}: {reason.replace('_', ' ')}; it was skipped")
                tally.documents.add(reason, line[:400].decode(errors="replace"))
                continue
            title = row.get(settings.title_column) if row and settings.title_column else None
            fallback = f"{path.stem} {number}"
            identity = f"{name}:{path.as_posix()}#{number}"
            yield Document(identity, name, str(title or fallback), text)
    tell_of_bytes(path, num_bad, tally)


def _object(line: bytes) -> tuple[dict[str, object] | None, int]:
    """Return the object that a line holds, if any, and how many of its bytes are not UTF-8."""
    num_bad = 0
    try:
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            text, num_bad = decoded(line)
            row = json.loads(text)
    except (ValueError, RecursionError):
        return None, 0
    return (row, num_bad) if isinstance(row, dict) else (None, 0)
