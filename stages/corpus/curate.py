r"""Clean the documents of all sources, drop what is unfit or repeated, and hold a part out.

By hand: python -m stages.corpus.curate --documents data/documents --out data/curated \
             --report reports/corpus.json
Reads the documents of every source in params.yaml. Writes train.parquet, heldout.parquet and
drops.json (examples of what was dropped) into --out, and the counts and examples to --report.

The documents are read twice. First each by itself, in any number of processes: it is cleaned,
judged and hashed. Then in order, to drop what an earlier one has: exact repetition by 64-bit
hashes, near repetition by MinHash. In memory are 8 bytes for each document and paragraph, while
they are sorted 24, and about 80 for each that repeats; 512 bytes a document are on disk meanwhile.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from stages import params
from stages.command import log, num_cores, parser_for, run
from stages.corpus.ahead import in_order
from stages.corpus.cleaning import is_english, sound_paragraphs, unfit
from stages.corpus.minhash import NUM_HASHES, Signatures, near_duplicates, signature
from stages.corpus.records import (
    SCHEMA,
    Document,
    Tally,
    document_writer,
    open_documents,
    read_documents,
    table_of,
)
from stages.corpus.workers import processes
from stages.errors import DataError
from stages.files import atomic_output, read_json, write_json

SPLITS = ("train", "heldout")
PARALLEL_BYTES = 8_000_000
"""Less than this, compressed, is read in the time that starting processes takes."""

MIN_REPEATED_WORDS = 5
"""People in novels say "Yes, sir." without copying each other."""
_WHOLE = "\f"
"""Stands before what is hashed of a document: one of one paragraph is not that paragraph."""

Hashes = NDArray[np.uint64]


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
        documents.append(_hash(_WHOLE + text))
        paragraph_hashes += map(_hash, filter(tells, dict.fromkeys(paragraphs)))
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


class Curation:
    """What the documents that were kept have, so far as any other has it too."""

    def __init__(self, rules: params.Curate, repeated: set[int], original: NDArray[np.int64]):
        self._rules = rules
        self._repeated = repeated
        self._original = original
        self._titles = dict.fromkeys(original[original >= 0].tolist(), "")
        self._seen: set[int] = set()
        self._number = -1

    def keep(self, document: Document, tally: Tally) -> Document | None:
        """Return the next document as it stays in the corpus, or count why it does not."""
        self._number += 1
        if self._number in self._titles:
            self._titles[self._number] = document.title
        whole = _hash(_WHOLE + document.text)
        if whole in self._seen:
            tally.documents.add("duplicate_document", document.text)
            return None
        if self._number < len(self._original) and self._original[self._number] >= 0:
            like = self._titles[int(self._original[self._number])]
            tally.documents.add("near_duplicate", f"{document.title} is {like}: {document.text}")
            return None
        fresh, repeated = [], []
        own: set[int] = set()
        for paragraph in document.text.split("\n\n"):
            number = _hash(paragraph) if tells(paragraph) else None
            if number is not None and (number in self._seen or number in own):
                repeated.append(paragraph)
                continue
            fresh.append(paragraph)
            if number is not None:
                own.add(number)
        if repeated and unfit(fresh, self._rules):
            tally.documents.add("duplicate_paragraphs", document.text)
            return None
        for paragraph in repeated:
            tally.paragraphs.add("duplicate_paragraph", paragraph)
        self._seen |= self._repeated & own
        if whole in self._repeated:
            self._seen.add(whole)
        return replace(document, text="\n\n".join(fresh))


def tells(paragraph: str) -> bool:
    """Return whether a paragraph is long enough for its repetition to mean that it was copied."""
    return paragraph.count(" ") >= MIN_REPEATED_WORDS - 1


def is_held_out(document_id: str, fraction: float, seed: int) -> bool:
    """Return whether a document is held out: by its name alone, whatever else is in the corpus."""
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def curate(
    documents: Path,
    names: Iterable[str],
    out: Path,
    rules: params.Curate,
    seed: int,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Write both splits from the documents of the named sources, and return the counts.

    Args:
        documents: the folder with a folder for each source.
        names: of the sources; the order does not matter.
        out: the folder that is written, whole or not at all.
        rules: what stays.
        seed: decides with `rules.heldout_fraction` which documents are held out.
        num_workers: processes that clean; None: all cores for a large corpus, none for a small
            one. Changes nothing in the result.

    Raises:
        DataError: a source is missing, or a split would be empty.
    """
    names = sorted(names)
    tallies = {name: Tally.from_json(read_json(documents / name / "drops.json")) for name in names}
    with atomic_output(out) as folder:
        folder.mkdir()
        # Beside what is written, and gone with it.
        scratch = folder.parent / "cleaned"
        scratch.mkdir()
        paths = {name: documents / name / "documents.parquet" for name in names}
        pieces, hashes, signatures = _clean(paths, scratch, rules, num_workers)
        for piece in pieces:
            tallies[piece.source].include(piece.tally)
        original = np.zeros(0, np.int64)
        if rules.near_duplicate_similarity is not None and len(signatures) > 1:
            original = near_duplicates(signatures, rules.near_duplicate_similarity)
        curation = Curation(rules, _repeated(hashes), original)
        kept = {name: [0, 0] for name in names}
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(document_writer(folder / f"{split}.parquet"))
                for split in SPLITS
            }
            for piece in pieces:
                for document in read_documents(piece.path):
                    found = curation.keep(document, tallies[piece.source])
                    if found is not None:
                        held_out = is_held_out(found.id, rules.heldout_fraction, seed)
                        writers["heldout" if held_out else "train"].write(found)
                        kept[piece.source][0] += 1
                        kept[piece.source][1] += len(found.text)
                piece.path.unlink()
        total = Tally()
        for tally in tallies.values():
            total.include(tally)
        for split, writer in writers.items():
            if writer.num_documents == 0:
                raise DataError(_nothing_in(split, total))
        write_json(folder / "drops.json", total.as_json())
    return {
        "sources": {
            name: {
                "num_read": tally.num_read,
                "num_kept": kept[name][0],
                "num_characters": kept[name][1],
                "dropped": dict(tally.documents.counts),
                "dropped_paragraphs": dict(tally.paragraphs.counts),
            }
            for name, tally in tallies.items()
        },
        "num_documents": {split: writer.num_documents for split, writer in writers.items()},
        "num_characters": {split: writer.num_characters for split, writer in writers.items()},
        "dropped": dict(total.documents.counts),
        "dropped_paragraphs": dict(total.paragraphs.counts),
        "examples": total.documents.examples,
        "paragraph_examples": total.paragraphs.examples,
        "warnings": total.warnings,
    }


def _clean(
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


def _repeated(hashes: list[Hashes]) -> set[int]:
    """Return the hashes that occur more than once."""
    ordered = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    return set(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist())


def _nothing_in(split: str, total: Tally) -> str:
    return (
        f"no document is left for the {split} split: {total.num_read} were read, and dropped were: "
        f"{total.documents}. Add text under corpus.sources in params.yaml, or loosen "
        "corpus.curate (min_words, min_alphabetic_fraction, heldout_fraction)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Curate the sources of params.yaml."""
    settings = params.load()
    report = curate(
        arguments.documents,
        settings.corpus.sources,
        arguments.out,
        settings.corpus.curate,
        settings.seed,
    )
    write_json(arguments.report, report)
    log.info(
        "curated: %d documents to train on, %d held out; what was dropped is in %s",
        report["num_documents"]["train"],
        report["num_documents"]["heldout"],
        arguments.out / "drops.json",
    )


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["documents", "out", "report"]))
