"""Where text comes from: one module per kind of source, each a function that yields documents.

A source is `documents(name, settings, hub_path, tally)`: it yields documents one by one, in an
order that depends on its settings and on nothing else, and counts what it leaves out. To add one:
a settings class with a `kind` in stages/params/corpus.py, a module here, a line in `KINDS`.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from stages.corpus.records import Document, Tally

KINDS = {
    "docstrings": "stages.corpus.sources.docstrings",
    "wikipedia": "stages.corpus.sources.wikipedia",
    "bookcorpus": "stages.corpus.sources.bookcorpus",
    "mediawiki": "stages.corpus.sources.mediawiki",
    "books": "stages.corpus.sources.books",
    "text": "stages.corpus.sources.text",
    "jsonl": "stages.corpus.sources.jsonl",
    "parquet": "stages.corpus.sources.parquet",
}


Reader = Callable[[str, Any, Callable[[str], str], Tally], Iterator[Document]]


def reader_of(kind: str) -> Reader:
    """Return the function that reads a kind of source; its imports happen only now."""
    reader: Reader = import_module(KINDS[kind]).documents
    return reader
