"""One shard: a share of a split's documents as packed rows of token ids, with what they are."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params
from stages.corpus.health import Health, common_ids
from stages.corpus.packing import Rows, pack, reason_to_drop, stacked, write_shard
from stages.corpus.records import Drops, open_documents
from stages.corpus.tokenising import Encoder, Tokens, continuations
from stages.errors import DataError
from stages.files import atomic_output, fingerprint, sha256_of, write_json

DOCUMENTS_PER_BATCH = 64
LIBRARIES = ("numpy", "pyarrow", "sentencex", "tokenizers")
MODULES = (
    "health", "one_shard", "packing", "reading", "records", "tokenising", "tokenizer_file",
)  # fmt: skip
"""What decides the bytes of a shard, beside its inputs and settings."""


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


def make_shard(shard: Shard) -> None:
    """Write a shard, unless it is done."""
    if shard.out.with_suffix(".json").exists():
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
