r"""Clean the documents of all sources, drop what is unfit or repeated, and hold a part out.

By hand: python -m stages.corpus.curate --documents data/documents --out data/curated \
             --report reports/corpus.json
Reads the documents of every source in params.yaml. Writes train.parquet, heldout.parquet and
drops.json (examples of what was dropped) into --out, and the counts to --report.

Repetition is found by 64-bit hashes of exact text, over all sources at once, before anything is
held out: no paragraph is in both splits. The hashes take about 80 bytes a paragraph in memory.
"""

import argparse
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.records import Document, Tally, document_writer, open_documents, read_documents
from stages.errors import DataError
from stages.files import atomic_output, read_json, write_json

SPLITS = ("train", "heldout")

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_NEITHER_LETTER_NOR_SPACE = re.compile(r"[^\w ]+|[\d_]+")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u0600-\u0605\u061c\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ue000-\uf8ff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]"
)
"""Control and format characters (zero width, direction marks, soft hyphens) and private use."""


class Curation:
    """The rules, and a memory of all text that was kept."""

    def __init__(self, rules: params.Curate) -> None:
        self._rules = rules
        self._documents: set[int] = set()
        self._paragraphs: set[int] = set()

    def keep(self, document: Document, tally: Tally) -> Document | None:
        """Return the document as it stays in the corpus, or count why it does not."""
        paragraphs = clean_paragraphs(document.text)
        whole = _hash("\n\n".join(paragraphs))
        reason = unfit(paragraphs, self._rules)
        if reason is None and whole in self._documents:
            reason = "duplicate_document"
        fresh = [
            paragraph
            for paragraph in dict.fromkeys(paragraphs)
            if _hash(paragraph) not in self._paragraphs
        ]
        if reason is None and len(fresh) < len(paragraphs) and unfit(fresh, self._rules):
            reason = "duplicate_paragraphs"
        if reason is not None:
            tally.documents.add(reason, document.text)
            return None
        for paragraph in _without(paragraphs, fresh):
            tally.paragraphs.add("duplicate_paragraph", paragraph)
        self._documents.add(whole)
        self._paragraphs.update(map(_hash, fresh))
        return replace(document, text="\n\n".join(fresh))


def clean_paragraphs(text: str) -> list[str]:
    """Return a text's paragraphs in NFC, without invisible characters, whitespace made single."""
    text = unicodedata.normalize("NFC", text)
    pieces = _PARAGRAPH_BREAK.split(_INVISIBLE.sub("", text))
    return [joined for piece in pieces if (joined := " ".join(piece.split()))]


def unfit(paragraphs: list[str], rules: params.Curate) -> str | None:
    """Return why a document breaks the rules on its length and letters, None if it does not."""
    if sum(len(paragraph.split()) for paragraph in paragraphs) < rules.min_words:
        return "too_few_words"
    num_characters = sum(map(len, paragraphs))
    num_other = sum(
        len(run) for text in paragraphs for run in _NEITHER_LETTER_NOR_SPACE.findall(text)
    )
    if num_characters - num_other < rules.min_alphabetic_fraction * num_characters:
        return "too_few_letters"
    return None


def is_held_out(document_id: str, fraction: float, seed: int) -> bool:
    """Return whether a document is held out: by its name alone, whatever else is in the corpus."""
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _without(paragraphs: list[str], kept: list[str]) -> Iterator[str]:
    """Yield the paragraphs that are not kept; of one that stands twice, the second."""
    left = Counter(kept)
    for paragraph in paragraphs:
        if left[paragraph]:
            left[paragraph] -= 1
        else:
            yield paragraph


def curate(
    documents: Path, names: Iterable[str], out: Path, rules: params.Curate, seed: int
) -> dict[str, Any]:
    """Write both splits from the documents of the named sources, and return the counts.

    Raises:
        DataError: a source is missing, or a split would be empty.
    """
    curation = Curation(rules)
    total = Tally()
    sources = {}
    with atomic_output(out) as folder:
        folder.mkdir()
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(document_writer(folder / f"{split}.parquet"))
                for split in SPLITS
            }
            for name in sorted(names):
                tally = Tally.from_json(read_json(documents / name / "drops.json"))
                num_kept = num_characters = 0
                for document in _progress(documents / name / "documents.parquet", name):
                    kept = curation.keep(document, tally)
                    if kept is not None:
                        held_out = is_held_out(kept.id, rules.heldout_fraction, seed)
                        writers["heldout" if held_out else "train"].write(kept)
                        num_kept += 1
                        num_characters += len(kept.text)
                sources[name] = {
                    "num_read": tally.num_read,
                    "num_kept": num_kept,
                    "num_characters": num_characters,
                    "dropped": dict(tally.documents.counts),
                    "dropped_paragraphs": dict(tally.paragraphs.counts),
                }
                total |= tally
        for split, writer in writers.items():
            if writer.num_documents == 0:
                raise DataError(_nothing_in(split, total))
        write_json(folder / "drops.json", total.as_json())
    return {
        "sources": sources,
        "num_documents": {split: writer.num_documents for split, writer in writers.items()},
        "num_characters": {split: writer.num_characters for split, writer in writers.items()},
        "dropped": dict(total.documents.counts),
        "dropped_paragraphs": dict(total.paragraphs.counts),
    }


def _progress(path: Path, name: str) -> Iterator[Document]:
    with open_documents(path) as file:
        num_documents = file.metadata.num_rows
    bar = tqdm(read_documents(path), desc=name, unit=" documents", total=num_documents)
    yield from bar


def _nothing_in(split: str, total: Tally) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in total.documents.counts.items())
    return (
        f"no document is left for the {split} split: {total.num_read} were read, and dropped were: "
        f"{reasons or 'none'}. Add text under corpus.sources in params.yaml, or loosen "
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
