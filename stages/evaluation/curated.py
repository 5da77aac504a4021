"""The curated documents of a split, as derived tasks look at them."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.errors import DataError

MAX_DOCUMENTS = 20_000
"""Documents drawn from a larger split: enough for the examples, and little memory."""

DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True, slots=True)
class Document:
    """A document of the corpus, as far as tasks need it."""

    group: str
    """The package of a docstring, else the source."""
    is_docstring: bool
    paragraphs: tuple[str, ...]


def read_documents(path: Path, seed: int) -> list[Document]:
    """Read the documents of a split, or a random MAX_DOCUMENTS of them where there are more."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run: dvc repro curate") from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} is not Parquet ({error}); run: dvc repro --force curate"
        ) from error
    num_rows = file.metadata.num_rows
    chosen = np.zeros(num_rows, dtype=bool)
    rng = np.random.default_rng(seed)
    chosen[rng.permutation(num_rows)[:MAX_DOCUMENTS]] = True
    documents: list[Document] = []
    start = 0
    for batch in file.iter_batches(columns=["source", "title", "text"]):
        mask = pa.array(chosen[start : start + batch.num_rows])
        start += batch.num_rows
        rows = pc.filter(batch, mask).to_pydict()
        documents += map(_document, rows["source"], rows["title"], rows["text"])
    return documents


def _document(source: str, title: str, text: str) -> Document:
    is_docstring = DOTTED_NAME.fullmatch(title) is not None
    paragraphs = tuple(" ".join(p.split()) for p in text.split("\n\n"))
    return Document(title.split(".")[0] if is_docstring else source, is_docstring, paragraphs)
