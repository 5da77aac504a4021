r"""Clean the documents of all sources, drop what is unfit or repeated, and hold a part out.

By hand: python -m stages.corpus.curate --documents data/documents --out data/curated \
             --report reports/corpus.json
Reads the documents of every source in params.yaml. Writes train.parquet, heldout.parquet and
drops.json (examples of what was dropped) into --out, and the counts and examples to --report.

The documents are read twice. First each by itself, in any number of processes: it is cleaned,
judged and hashed (pieces.py). Then in order, to drop what an earlier one has: exact repetition by
64-bit hashes (duplicates.py), near repetition by MinHash (minhash.py). In memory are 8 bytes for
each document and paragraph, while they are sorted 24, and about 80 for each that repeats; 512
bytes a document are on disk meanwhile.
"""

import argparse
import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.duplicates import Deduplication, repeated
from stages.corpus.minhash import near_duplicates
from stages.corpus.pieces import clean
from stages.corpus.records import Tally, document_writer, read_documents
from stages.errors import DataError
from stages.files import atomic_output, read_json, write_json

SPLITS = ("train", "heldout")


def is_held_out(document_id: str, fraction: float, seed: int) -> bool:
    """Return whether a document is held out: by its name alone, whatever else is in the corpus."""
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


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
        pieces, hashes, signatures = clean(paths, scratch, rules, num_workers)
        for piece in pieces:
            tallies[piece.source].include(piece.tally)
        original = np.zeros(0, np.int64)
        if rules.near_duplicate_similarity is not None and len(signatures) > 1:
            original = near_duplicates(signatures, rules.near_duplicate_similarity)
        deduplication = Deduplication(rules, repeated(hashes), original)
        kept = {name: [0, 0] for name in names}
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(document_writer(folder / f"{split}.parquet"))
                for split in SPLITS
            }
            for piece in pieces:
                for document in read_documents(piece.path):
                    found = deduplication.keep(document, tallies[piece.source])
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
