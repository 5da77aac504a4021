"""The tokenizer beside an exported model, so that whoever opens it reads texts as training did.

tokenizer.json is the student's, but cuts and pads nothing that is not asked for. What it does not
say is in tokenizer_config.json: how many tokens the model reads and which are special. Without that
file transformers takes the tokenizer of the model's kind by its defaults, in which BERT's reads
everything in small letters and ModernBERT's has no mask.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from stages.corpus.tokenizer_file import special_tokens
from stages.export.graph import inputs_of
from stages.files import read_json, write_json
from stages.students.positions import num_positions

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def write_tokenizer(
    source: Path, folder: Path, model: PreTrainedModel, max_length: int | None = None
) -> None:
    """Write both files of a model's tokenizer into a folder.

    A tokenizer.json may cut and pad texts as somebody's last call did: padding that no mask hides
    would change every answer. The copy pads nothing, and cuts only at `max_length` tokens if given.

    Args:
        source: The folder with the tokenizer.json.
        folder: Where both are written.
        model: That reads its tokens.
        max_length: Where the model was tuned on texts cut there.

    Raises:
        DataError: it is not a tokenizer of BERT's or RoBERTa's kind.
    """
    content = read_json(source / TOKENIZER)
    cut = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    content |= {"truncation": None if max_length is None else cut, "padding": None}
    text = json.dumps(content, ensure_ascii=False, indent=2)
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    most = num_positions(model.config)
    tokens = special_tokens(Tokenizer.from_str(text), source / TOKENIZER)
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": most if max_length is None else min(max_length, most),
        "model_input_names": inputs_of(model),
    }
    write_json(
        folder / TOKENIZER_CONFIG, about | {f"{name}_token": t for name, t in tokens.items()}
    )
