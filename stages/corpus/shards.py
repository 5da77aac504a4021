r"""Turn documents into rows of token ids of one length, stored as memory-mapped Arrow shards.

By hand: python -m stages.corpus.shards --curated data/curated \
             --tokenizer models/teacher_source/tokenizer.json --out data/shards
Writes <split>/shard-00000.arrow ..., manifest.json, token_counts.npy and continuations.npy
(docs/data-format.md).

A shard is a function of its number and of `corpus.shards` alone, so the bytes do not depend on
which processes make it: local ones, or the workers of a Dask cluster (`launch.dask_address`).
Finished shards are kept under .scratch until all are done: the same command goes on where a
killed one stopped.
"""

import argparse
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.one_shard import Shard, make_shard, versions
from stages.corpus.reading import FORMAT, SPLITS
from stages.corpus.records import Drops
from stages.corpus.tokenising import Encoder, continuations
from stages.corpus.workers import workers
from stages.errors import DataError, Interrupted
from stages.files import (
    atomic_output,
    discard,
    file_lock,
    read_json,
    scratch,
    sha256_of,
    write_json,
)

MAX_LOST_WORKERS = 3
SECONDS_TO_LET_GO = 2

Workers = Callable[[], AbstractContextManager[Executor]]
"""Starts the workers; called again if they broke down."""


def make_shards(
    curated: Path, tokenizer: Path, out: Path, settings: params.Shards, workers: Workers
) -> dict[str, Any]:
    """Make every shard of both splits, and assemble the shards folder.

    Returns:
        The manifest.

    Raises:
        DataError: a split has no sequence, or another process makes the same shards.
    """
    encoder = Encoder(tokenizer)
    tokenizer_sha256 = sha256_of(tokenizer)
    inputs = {split: sha256_of(curated / f"{split}.parquet") for split in SPLITS}
    # Whole paths, since a worker of a cluster may have been started in another folder.
    key = FORMAT, inputs, tokenizer_sha256, settings.model_dump(), versions()
    work = scratch("shards", *key).resolve()
    shards = {
        split: [
            Shard(
                (curated / f"{split}.parquet").resolve(),
                tokenizer.resolve(),
                tokenizer_sha256,
                settings,
                number,
                versions(),
                work / f"{split}-{number:05d}",
            )
            for number in range(settings.num_shards)
        ]
        for split in SPLITS
    }
    try:
        with file_lock(work / ".lock", SECONDS_TO_LET_GO):
            _make_all([shard for split in SPLITS for shard in shards[split]], workers)
            return _write_folder(shards, out, encoder, tokenizer_sha256)
    except BlockingIOError as error:
        raise DataError(
            f"another process makes these shards in {work}: wait for it, or stop it and run again"
        ) from error


def _make_all(shards: list[Shard], workers: Workers) -> None:
    """Make the shards; a local process that is lost costs those that were being made."""
    for _ in range(MAX_LOST_WORKERS):
        try:
            with workers() as executor:
                futures = [executor.submit(make_shard, shard) for shard in shards]
                bar = tqdm(as_completed(futures), desc="shards", total=len(futures))
                for future in bar:
                    future.result()
        except BrokenExecutor as error:
            log.warning("a worker process was lost (%s); what it had begun is made again", error)
        else:
            return
    raise DataError(
        f"worker processes were lost {MAX_LOST_WORKERS} times, perhaps for want of memory; the "
        "finished shards are kept: run the same command again, with fewer other programs"
    )


def _write_folder(
    shards: dict[str, list[Shard]], out: Path, encoder: Encoder, tokenizer_sha256: str
) -> dict[str, Any]:
    """Write the shards folder from finished shards, delete these, and return the manifest."""
    settings = shards["train"][0].settings
    with atomic_output(out) as folder:
        folder.mkdir()
        splits = {split: _assemble(shards[split], folder, split) for split in SPLITS}
        counts = sum(np.load(shard.out.with_suffix(".npy")) for shard in shards["train"])
        arrays = {"token_counts": counts, "continuations": continuations(encoder.tokenizer)}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        manifest = {
            "format": FORMAT,
            "sequence_length": settings.sequence_length,
            "vocabulary_size": encoder.vocabulary_size,
            "tokenizer_sha256": tokenizer_sha256,
            "special_ids": asdict(encoder.special),
            "params": settings.model_dump(),
            "splits": splits,
            "arrays": [
                {"file": f"{name}.npy", "sha256": sha256_of(folder / f"{name}.npy")}
                for name in arrays
            ],
        }
        write_json(folder / "manifest.json", manifest)
    discard(shards["train"][0].out.parent)
    return manifest


def _assemble(shards: list[Shard], folder: Path, split: str) -> dict[str, Any]:
    """Bring a split's shards into the folder, and return its part of the manifest."""
    (folder / split).mkdir()
    listed: list[dict[str, Any]] = []
    drops, tokens, lengths = Drops(), Counter[str](), Counter[str]()
    for shard in shards:
        done = read_json(shard.out.with_suffix(".json"))
        drops |= Drops(Counter(done.pop("dropped")), done.pop("examples"))
        tokens.update(done.pop("tokens"))
        lengths.update(done.pop("lengths"))
        if done["num_sequences"]:
            file = f"{split}/shard-{shard.number:05d}.arrow"
            # A link, not a move: a kill between here and the end must not cost a finished shard.
            _link(shard.out.with_suffix(".arrow"), folder / file)
            listed.append({"file": file, **done})
    if not listed:
        raise DataError(
            f"no sequence is left for the {split} split ({drops.counts.total()} documents dropped: "
            f"{dict(drops.counts)}); add text under corpus.sources in params.yaml, lower "
            "corpus.shards.min_tokens, or raise max_unknown_fraction beside it"
        )
    return {
        "num_sequences": sum(shard["num_sequences"] for shard in listed),
        "num_tokens": sum(shard["num_tokens"] for shard in listed),
        "num_documents": lengths.total(),
        "dropped": drops.counts,
        "examples": drops.examples,
        "tokens": tokens,
        "lengths": lengths,
        "shards": listed,
    }


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # data/ may lie on another disk, or on one without links
        shutil.copyfile(old, new)


def main(arguments: argparse.Namespace) -> None:
    """Make the shards with one process per core, or on a cluster."""
    settings = params.load()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    num_shards = len(SPLITS) * settings.corpus.shards.num_shards
    manifest = make_shards(
        arguments.curated,
        arguments.tokenizer,
        arguments.out,
        settings.corpus.shards,
        partial(workers, settings.launch.dask_address, num_shards),
    )
    for split, part in manifest["splits"].items():
        log.info(
            "%s: %d sequences, %d tokens, %d documents, dropped: %s",
            split,
            part["num_sequences"],
            part["num_tokens"],
            part["num_documents"],
            dict(part["dropped"]) or "none",
        )


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted("stopped; the finished shards are kept, the same command does the rest")


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["curated", "tokenizer", "out"]))
