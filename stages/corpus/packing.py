"""From text to rows of token ids: the tokenizer, what is dropped, how documents are packed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages import params
from stages.corpus.reading import SpecialIds
from stages.errors import DataError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def open_tokenizer(path: Path) -> Any:
    """Return a tokenizer that neither cuts nor pads, whatever its file asks for.

    Raises:
        DataError: the file is not a tokenizer's.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise DataError(
            f"{path} does not exist; run the stage that makes it: dvc repro fetch_teacher"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def special_ids(tokenizer: Any, path: Path) -> SpecialIds:
    """Return the ids of BERT's special tokens.

    Raises:
        DataError: the tokenizer is not one of BERT's kind.
    """
    ids = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
    missing = [SPECIAL_TOKENS[name] for name, number in ids.items() if number is None]
    if missing:
        raise DataError(
            f"{path} has no token {', '.join(missing)}: it is not a BERT tokenizer. Choose a "
            "teacher with BERT's vocabulary under teacher.source in params.yaml"
        )
    return SpecialIds(**ids)


def id_type(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)


def reason_to_drop(ids: np.ndarray, special: SpecialIds, settings: params.Shards) -> str | None:
    """Return why a document's tokens are not packed, None if they are."""
    if len(ids) < settings.min_tokens:
        return "too_few_tokens"
    if np.count_nonzero(ids == special.unk) >= settings.max_unknown_fraction * len(ids):
        return "too_many_unknown"
    return None


def pack(documents: Iterable[np.ndarray], special: SpecialIds, length: int) -> Iterator[np.ndarray]:
    """Yield rows `[CLS] ... [SEP]` of one length, documents end to end with `[SEP]` between them.

    A document that does not fit goes on in the next row. Only the last row is padded. No row
    begins with a separator: where a document ends with its row, the row's own end separates.
    """
    row = np.empty(length, dtype=np.int64)
    row[0], row[-1] = special.cls, special.sep
    filled = 1
    for ids in documents:
        if 1 < filled < length - 1:
            row[filled] = special.sep
            filled += 1
        while len(ids):
            if filled == length - 1:
                yield row.copy()
                filled = 1
            taken = ids[: length - 1 - filled]
            row[filled : filled + len(taken)] = taken
            filled += len(taken)
            ids = ids[len(taken) :]
    if filled > 1:
        row[filled] = special.sep
        row[filled + 1 :] = special.pad
        yield row


def write_shard(path: Path, rows: np.ndarray) -> None:
    """Write rows as one record batch of an Arrow stream."""
    values = pa.array(np.ascontiguousarray(rows).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    table = pa.table({"input_ids": column})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
