r"""Turn documents into rows of token ids of one length, stored as memory-mapped Arrow shards.

By hand: python -m stages.corpus.shards --curated data/curated \
             --tokenizer models/teacher_source/tokenizer.json --out data/shards
Writes <split>/shard-00000.arrow ..., manifest.json and token_counts.npy (docs/data-format.md).

The work is cut into `corpus.shards.num_ranks` ranks, each a function of its number alone, so the
bytes do not depend on how many processes run the ranks. Finished ranks are kept under .scratch
until all are done: the same command goes on where a killed one stopped.
"""

import argparse
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.packing import (
    id_type,
    open_tokenizer,
    pack,
    reason_to_drop,
    special_ids,
    write_shard,
)
from stages.corpus.reading import FORMAT, SPLITS
from stages.corpus.records import open_documents
from stages.corpus.workers import processes
from stages.errors import DataError, Interrupted
from stages.files import atomic_output, read_json, scratch, sha256_of, write_json

DOCUMENTS_PER_CALL = 256


@dataclass(frozen=True, slots=True)
class Rank:
    """One piece of the work, with all that a process needs to do it."""

    documents: Path
    tokenizer: Path
    settings: params.Shards
    number: int
    out: Path
    """A folder that appears when the piece is done, and is not made again if it is there."""


# --------------------------------------------------------------------------- one rank


def run_rank(rank: Rank) -> Path:
    """Write a rank's shards and their description into its folder; return the folder."""
    if rank.out.exists():
        return rank.out
    tokenizer = open_tokenizer(rank.tokenizer)
    special = special_ids(tokenizer, rank.tokenizer)
    vocabulary_size = tokenizer.get_vocab_size(with_added_tokens=True)
    dtype = id_type(vocabulary_size)
    dropped: Counter[str] = Counter()
    num_documents = 0

    def kept() -> Iterator[np.ndarray]:
        nonlocal num_documents
        for texts in _texts(rank.documents, rank.number, rank.settings.num_ranks):
            for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                ids = np.array(encoding.ids, dtype=np.int64)
                reason = reason_to_drop(ids, special, rank.settings)
                if reason is None:
                    num_documents += 1
                    yield ids
                else:
                    dropped[reason] += 1

    with atomic_output(rank.out) as folder:
        folder.mkdir()
        counts = np.zeros(vocabulary_size, dtype=np.int64)
        shards: list[dict[str, Any]] = []
        rows = pack(kept(), special, rank.settings.sequence_length)
        for block in _blocks(rows, rank.settings.sequences_per_shard):
            path = folder / f"{len(shards):05d}.arrow"
            write_shard(path, block.astype(dtype))
            block_counts = np.bincount(block.ravel(), minlength=vocabulary_size)
            block_counts[special.pad] = 0
            counts += block_counts
            shards.append(
                {
                    "num_sequences": len(block),
                    "num_tokens": int(block_counts.sum()),
                    "sha256": sha256_of(path),
                }
            )
        np.save(folder / "token_counts.npy", counts)
        done = {"num_documents": num_documents, "dropped": dict(dropped), "shards": shards}
        write_json(folder / "rank.json", done)
    return rank.out


def _texts(path: Path, rank: int, num_ranks: int) -> Iterator[list[str]]:
    """Yield the texts of a rank's share of a documents file: consecutive rows, a few at a time."""
    with open_documents(path) as file:
        num_rows = file.metadata.num_rows
        first, last = num_rows * rank // num_ranks, num_rows * (rank + 1) // num_ranks
        start = 0
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            low, high = max(first, start), min(last, end)
            if low < high:
                column = file.read_row_group(group, columns=["text"]).column("text")
                texts = column.slice(low - start, high - low).to_pylist()
                for i in range(0, len(texts), DOCUMENTS_PER_CALL):
                    yield texts[i : i + DOCUMENTS_PER_CALL]
            start = end


def _blocks(rows: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield rows stacked to blocks of `size`; the last may be smaller."""
    block: list[np.ndarray] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)


# --------------------------------------------------------------------------- all ranks


def make_shards(
    curated: Path, tokenizer: Path, out: Path, settings: params.Shards, executor: Executor
) -> dict[str, Any]:
    """Run every rank of both splits through an executor, and assemble the shards folder.

    Returns:
        The manifest.
    """
    opened = open_tokenizer(tokenizer)
    special = special_ids(opened, tokenizer)
    tokenizer_sha256 = sha256_of(tokenizer)
    inputs = {split: sha256_of(curated / f"{split}.parquet") for split in SPLITS}
    work = scratch("shards", FORMAT, inputs, tokenizer_sha256, settings.model_dump())
    ranks = {
        split: [
            Rank(
                curated / f"{split}.parquet",
                tokenizer,
                settings,
                number,
                work / f"{split}-{number:05d}",
            )
            for number in range(settings.num_ranks)
        ]
        for split in SPLITS
    }
    _run_all([rank for split in SPLITS for rank in ranks[split]], executor)
    manifest = {
        "format": FORMAT,
        "sequence_length": settings.sequence_length,
        "vocabulary_size": opened.get_vocab_size(with_added_tokens=True),
        "tokenizer_sha256": tokenizer_sha256,
        "special_ids": asdict(special),
        "params": settings.model_dump(),
    }
    with atomic_output(out) as folder:
        folder.mkdir()
        manifest["splits"] = {split: _assemble(ranks[split], folder, split) for split in SPLITS}
        counts = sum(np.load(rank.out / "token_counts.npy") for rank in ranks["train"])
        np.save(folder / "token_counts.npy", counts)
        write_json(folder / "manifest.json", manifest)
    shutil.rmtree(work)
    return manifest


def _run_all(ranks: list[Rank], executor: Executor) -> None:
    futures = [executor.submit(run_rank, rank) for rank in ranks]
    for future in tqdm(as_completed(futures), desc="shards", unit=" ranks", total=len(futures)):
        future.result()


def _assemble(ranks: list[Rank], folder: Path, split: str) -> dict[str, Any]:
    """Copy the ranks' shards into one numbering, and return the split's part of the manifest."""
    (folder / split).mkdir()
    shards: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    num_documents = 0
    for rank in ranks:
        done = read_json(rank.out / "rank.json")
        num_documents += done["num_documents"]
        dropped.update(done["dropped"])
        for number, shard in enumerate(done["shards"]):
            file = f"{split}/shard-{len(shards):05d}.arrow"
            # A link, not a move: a kill between here and the end must not cost a finished rank.
            _link(rank.out / f"{number:05d}.arrow", folder / file)
            shards.append({"file": file, **shard})
    if not shards:
        raise DataError(
            f"no sequence is left for the {split} split ({dropped.total()} documents dropped: "
            f"{dict(dropped)}); add text under corpus.sources in params.yaml, or lower "
            "corpus.shards.min_tokens"
        )
    return {
        "num_sequences": sum(shard["num_sequences"] for shard in shards),
        "num_tokens": sum(shard["num_tokens"] for shard in shards),
        "num_documents": num_documents,
        "dropped": dict(dropped),
        "shards": shards,
    }


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # data/ may lie on another disk, or on one without links
        shutil.copyfile(old, new)


def main(arguments: argparse.Namespace) -> None:
    """Make the shards with one process per core."""
    settings = params.load().corpus.shards
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    # The ranks are the parallelism: threads inside each would only get in each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    workers = min(os.cpu_count() or 1, len(SPLITS) * settings.num_ranks)
    with processes(workers) as executor:
        manifest = make_shards(
            arguments.curated, arguments.tokenizer, arguments.out, settings, executor
        )
    for split, part in manifest["splits"].items():
        log.info(
            "%s: %d sequences, %d tokens, %d documents, dropped: %s",
            split,
            part["num_sequences"],
            part["num_tokens"],
            part["num_documents"],
            part["dropped"] or "none",
        )


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted("stopped; the finished ranks are kept, the same command does the rest")


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["curated", "tokenizer", "out"]))
