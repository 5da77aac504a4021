"""The documents of all sources cleaned, judged and hashed: a row group at a time, in any order."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from stages import params
from stages.command import num_cores
from stages.corpus.ahead import in_order
from stages.corpus.cleaning import is_english, sound_paragraphs, unfit
from stages.corpus.duplicates import Hashes, document_hash, paragraph_hash
from stages.corpus.minhash import NUM_HASHES, Signatures, signature
from stages.corpus.records import SCHEMA, Document, Tally, open_documents, table_of
from stages.corpus.workers import processes

PARALLEL_BYTES = 8_000_000
"""Less than this, compressed, is read in the time that starting processes takes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A row group of a source's documents, cleaned: what is left is in a file of its own."""

    source: str
    path: Path
    tally: Tally
    documents: Hashes
    paragraphs: Hashes
    signatures: Signatures


def clean_piece(source: str, path: Path, group: int, out: Path, rules: params.Curate) -> Piece:
    """Clean the documents of one row group, drop the unfit, and hash the others."""
    tally = Tally()
    kept: list[Document] = []
    documents: list[int] = []
    paragraph_hashes: list[int] = []
    signatures = []
    with open_documents(path) as file:
        rows = file.read_row_group(group, columns=SCHEMA.names).to_pylist()
    for row in rows:
        document = Document(**row)
        paragraphs = sound_paragraphs(document.text, tally.paragraphs)
        reason = unfit(paragraphs, rules)
        if reason is None and rules.language == "en" and not is_english(paragraphs):
            reason = "not_english"
        if reason is not None:
            tally.documents.add(reason, document.text)
            continue
        text = "\n\n".join(paragraphs)
        kept.append(replace(document, text=text))
        documents.append(document_hash(text))
        hashes = map(paragraph_hash, dict.fromkeys(paragraphs))
        paragraph_hashes += [number for number in hashes if number is not None]
        if rules.near_duplicate_similarity is not None:
            signatures.append(signature(text))
    pq.write_table(table_of(kept), out, compression="lz4")
    return Piece(
        source,
        out,
        tally,
        np.array(documents, np.uint64),
        np.array(paragraph_hashes, np.uint64),
        np.array(signatures, np.uint32).reshape(-1, NUM_HASHES),
    )


def clean(
    paths: dict[str, Path], scratch: Path, rules: params.Curate, num_workers: int | None
) -> tuple[list[Piece], list[Hashes], Signatures]:
    """Clean every row group; return the pieces without their numbers, and these apart."""
    calls: list[tuple[Callable[..., Piece], tuple[Any, ...]]] = []
    for name, path in paths.items():
        with open_documents(path) as file:
            num_groups = file.num_row_groups
        for group in range(num_groups):
            out = scratch / f"{len(calls):06}.parquet"
            calls.append((clean_piece, (name, path, group, out, rules)))
    if num_workers is None:
        is_large = sum(path.stat().st_size for path in paths.values()) > PARALLEL_BYTES
        num_workers = num_cores() if is_large else 0
    pieces, hashes = [], []
    on_disk = scratch / "signatures"
    with (
        processes(num_workers) if num_workers else nullcontext() as executor,
        on_disk.open("wb") as file,
    ):
        done = (
            in_order(executor, num_workers, calls)
            if executor
            else (function(*arguments) for function, arguments in calls)
        )
        for piece in tqdm(done, desc="cleaning", unit=" groups", total=len(calls)):
            piece.signatures.tofile(file)
            hashes += [piece.documents, piece.paragraphs]
            none = np.zeros((0, NUM_HASHES), np.uint32)
            pieces.append(
                replace(piece, documents=hashes[0][:0], paragraphs=hashes[0][:0], signatures=none)
            )
    if not on_disk.stat().st_size:
        return pieces, hashes, np.zeros((0, NUM_HASHES), np.uint32)
    signatures = np.memmap(on_disk, np.uint32, mode="r").reshape(-1, NUM_HASHES)
    return pieces, hashes, signatures
