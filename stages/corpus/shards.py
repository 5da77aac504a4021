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
import platform
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.health import Health, common_ids
from stages.corpus.packing import Rows, pack, reason_to_drop, stacked, write_shard
from stages.corpus.reading import FORMAT, SPLITS
from stages.corpus.records import Drops, open_documents
from stages.corpus.tokenising import Encoder, Tokens, continuations
from stages.corpus.workers import workers
from stages.errors import DataError, Interrupted
from stages.files import (
    atomic_output,
    file_lock,
    fingerprint,
    read_json,
    scratch,
    sha256_of,
    write_json,
)

DOCUMENTS_PER_BATCH = 64
MAX_LOST_WORKERS = 3
LIBRARIES = ("numpy", "pyarrow", "sentencex", "tokenizers")
MODULES = ("health", "packing", "reading", "records", "shards", "tokenising")
"""What decides the bytes of a shard, beside its inputs and settings."""
SECONDS_TO_LET_GO = 2
FINISHED = (".arrow", ".npy", ".json")


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of one split, with all that a process needs to make it."""

    documents: Path
    tokenizer: Path
    tokenizer_sha256: str
    settings: params.Shards
    number: int
    versions: dict[str, str]
    """Of LIBRARIES and MODULES: a worker that has others makes other shards, and must not."""
    out: Path
    """Without a suffix. The rows appear as .arrow, their token counts as .npy, and at last what
    they are as .json, which says that the shard is done."""


# --------------------------------------------------------------------------- one shard


def make_shard(shard: Shard) -> None:
    """Write a shard, unless it is done."""
    # All three: a kill while finished work was being deleted may have left any of them.
    if all(shard.out.with_suffix(suffix).exists() for suffix in FINISHED):
        return
    if (found := versions()) != shard.versions:
        raise DataError(
            f"the worker on {platform.node()} has {found}, and the shards are made with "
            f"{shard.versions}: install the same requirements.lock everywhere, and start workers "
            "again when the code has changed"
        )
    encoder, common, continues = _tokenizer(shard.tokenizer, shard.tokenizer_sha256)
    settings = shard.settings
    health, drops = Health(), Drops()
    counts = np.zeros(encoder.vocabulary_size, dtype=np.int64)
    num_sequences = 0

    def kept() -> Iterator[Tokens]:
        for sources, texts in _documents(shard.documents, shard.number, settings.num_shards):
            for source, text, tokens in zip(sources, texts, encoder.encode(texts), strict=True):
                reason = reason_to_drop(tokens.ids, encoder.special, settings)
                if reason is None:
                    health.add(source, text, tokens.ids, common, continues)
                    yield tokens
                else:
                    drops.add(reason, text)

    def counted() -> Iterator[Rows]:
        nonlocal counts, num_sequences
        for rows in stacked(pack(kept(), encoder.special, settings), encoder.id_type):
            counts += np.bincount(rows.ids.ravel(), minlength=encoder.vocabulary_size)
            num_sequences += len(rows.ids)
            yield rows

    with atomic_output(shard.out.with_suffix(".arrow")) as path:
        write_shard(path, counted(), settings.sequence_length, encoder.id_type)
        sha256 = sha256_of(path)
    counts[encoder.special.pad] = 0
    with atomic_output(shard.out.with_suffix(".npy")) as path:
        np.save(path, counts)
    done = {
        "num_sequences": num_sequences,
        "num_tokens": int(counts.sum()),
        "sha256": sha256,
        "dropped": drops.counts,
        "examples": drops.examples,
        **health.as_json(),
    }
    write_json(shard.out.with_suffix(".json"), done)


@cache
def versions() -> dict[str, str]:
    """Return the versions of LIBRARIES here, and the checksum of MODULES; it takes milliseconds."""
    code = [sha256_of(Path(__file__).with_name(f"{name}.py")) for name in MODULES]
    return {**{name: version(name) for name in LIBRARIES}, "code": fingerprint(code)}


@lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> tuple[Encoder, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what every shard of a process needs, and takes a tenth of a second to open.

    A cluster's worker outlives a run, and the next may have another tokenizer at the same path.

    Raises:
        DataError: the file is not that of the run, as this machine sees it.
    """
    if (found := sha256_of(path)) != sha256:
        raise DataError(
            f"{path} has the sha256 {found} on {platform.node()}, and the run's is {sha256}: every "
            "worker must see the same files"
        )
    # The shards are the parallelism: threads inside each would only get in each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder = Encoder(path)
    common = common_ids(encoder.tokenizer.get_vocab(), encoder.vocabulary_size)
    return encoder, common, continuations(encoder.tokenizer)


def _documents(path: Path, number: int, num_shards: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield sources and texts of a shard's share of a documents file, a few rows at a time."""
    with open_documents(path) as file:
        num_rows = file.metadata.num_rows
        first, last = num_rows * number // num_shards, num_rows * (number + 1) // num_shards
        start = 0
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if max(first, start) < min(last, end):
                # Without threads, each of which would keep memory of its own.
                for batch in file.iter_batches(
                    DOCUMENTS_PER_BATCH,
                    row_groups=[group],
                    columns=["source", "text"],
                    use_threads=False,
                ):
                    low, high = max(first - start, 0), min(last - start, len(batch))
                    if low < high:
                        share = batch.slice(low, high - low)
                        yield share.column("source").to_pylist(), share.column("text").to_pylist()
                    start += len(batch)
            start = end


# --------------------------------------------------------------------------- all shards


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
    shutil.rmtree(shards["train"][0].out.parent)
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
            f"{dict(drops.counts)}); add text under corpus.sources in params.yaml, or lower "
            "corpus.shards.min_tokens"
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
