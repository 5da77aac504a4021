"""A shards folder made from given rows, true to its manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.corpus.packing import Rows, write_shard
from stages.corpus.reading import FORMAT, SpecialIds
from stages.files import sha256_of, write_json

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def write_shards(
    folder: Path,
    splits: Mapping[str, Sequence[np.ndarray]],
    vocabulary_size: int,
    starts: np.ndarray | None = None,
    **more: Any,
) -> Path:
    """Write the rows of every shard of every split; `starts` marks the sentences of all of them.

    `more` is added to every split of the manifest.
    """
    described = {}
    for split, pieces in splits.items():
        (folder / split).mkdir(parents=True)
        shards = []
        for number, rows in enumerate(pieces):
            file = f"{split}/shard-{number:05d}.arrow"
            marks = np.zeros(rows.shape, dtype=np.bool_) if starts is None else starts
            block = Rows(rows.astype(np.uint16), marks)
            write_shard(folder / file, [block], rows.shape[1], np.dtype(np.uint16))
            shards.append(
                {
                    "file": file,
                    "num_sequences": len(rows),
                    "num_tokens": int(np.count_nonzero(rows)),
                    "sha256": sha256_of(folder / file),
                    "num_characters": 5 * rows.size,
                    "num_mojibake": 0,
                    "num_foreign_tokens": 0,
                }
            )
        described[split] = {
            "num_sequences": sum(map(len, pieces)),
            "tokens": {"books": sum(rows.size for rows in pieces)},
            "lengths": {"6": sum(map(len, pieces))},
            "dropped": {},
            "examples": {},
            "shards": shards,
            **more,
        }
    everything = np.concatenate(splits["train"])
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "sequence_length": everything.shape[1],
            "vocabulary_size": vocabulary_size,
            "special_ids": asdict(SPECIAL),
            "tokenizer_sha256": "0" * 64,
            "params": {"cross_documents": True},
            "splits": described,
        },
    )
    in_range = everything[everything < vocabulary_size]
    np.save(folder / "token_counts.npy", np.bincount(in_range, minlength=vocabulary_size))
    np.save(folder / "continuations.npy", np.zeros(vocabulary_size, dtype=np.bool_))
    return folder
