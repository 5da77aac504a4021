"""A tokenizer.json, and its special tokens by what they are for: BERT's names or RoBERTa's."""

from pathlib import Path
from typing import Any

from stages.corpus.reading import SpecialIds
from stages.errors import DataError

NAMES = (
    {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
)
BYTE_SPACE = "\u0120"
"""How vocabularies of bytes, RoBERTa's and ModernBERT's, write the space before a word."""


def read_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a file, as it is.

    Raises:
        DataError: the file is absent, or not a tokenizer's.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise DataError(f"{path} does not exist; dvc repro runs the stage that makes it")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is not a tokenizer.json: {error}") from error


def special_tokens(tokenizer: Any, called: object) -> dict[str, str]:
    """Return what a tokenizer writes for `pad`, `unk`, `cls`, `sep` and `mask`.

    Args:
        tokenizer: Of the `tokenizers` library.
        called: Its file, or what else it is called where it is refused.

    Raises:
        DataError: it has neither BERT's tokens nor RoBERTa's.
    """

    def lacking(names: dict[str, str]) -> list[str]:
        return [token for token in names.values() if tokenizer.token_to_id(token) is None]

    nearest = min(NAMES, key=lambda names: len(lacking(names)))
    if missing := lacking(nearest):
        bert, roberta = (" ".join(names.values()) for names in NAMES)
        raise DataError(
            f"{called} has no token {', '.join(missing)}: a tokenizer has BERT's {bert}, or "
            f"RoBERTa's {roberta}. Choose a teacher with one of these under teacher.source in "
            "params.yaml"
        )
    return nearest


def special_ids(tokenizer: Any, called: object) -> SpecialIds:
    """Return the ids of these tokens; arguments and errors are those of `special_tokens`."""
    tokens = special_tokens(tokenizer, called)
    return SpecialIds(**{name: tokenizer.token_to_id(token) for name, token in tokens.items()})
