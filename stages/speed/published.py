"""The speed test of DistilBERT's paper: one pass over STS-B's validation set, one pair at a time.

The paper has 668 s for BERT-base and 410 s for DistilBERT (its table 3): 1.63 times as fast. Texts
have the length they have; the time of one short text is what somebody who waits sees.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from stages.evaluation.task_folder import Example
from stages.evaluation.task_sources import read_public
from stages.evaluation.tasks import get_task
from stages.params import Params
from stages.speed.runners import open_encoder, torch_runner
from stages.speed.timing import Ids, Runner, by_turn, time_pass

TEXTS = "STS-B validation"
MAX_LENGTH = 128


def sentence_pairs(settings: Params, tokenizer: Path) -> list[Ids]:
    """Return the token ids of every validation pair, 1 x its length."""
    data, _ = read_public(get_task("stsb"), settings)
    (examples,) = data.validation.values()
    pairs = [(row.text_a, row.text_b) for row in examples if isinstance(row, Example)]
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.enable_truncation(MAX_LENGTH)
    return [np.array([row.ids], dtype=np.int64) for row in encoder.encode_batch(pairs)]


def one_pass(folders: Mapping[str, Path], rows: Sequence[Ids]) -> dict[str, Any]:
    """Return what every model's pass took."""
    runners = {name: torch_runner(open_encoder(folder)) for name, folder in folders.items()}
    return compare(runners, rows)


def compare(runners: Mapping[str, Runner], rows: Sequence[Ids]) -> dict[str, Any]:
    """Return the seconds of a pass by name, and how many times as fast as the first each is.

    The ratio is the median over the turns of the pass, as everywhere: a total would have whatever
    disturbed one turn of one model.
    """
    seconds = time_pass(runners, rows)
    reference = next(iter(seconds.values()))
    return {
        "texts": TEXTS,
        "num_texts": len(rows),
        "mean_length": round(float(np.mean([row.shape[1] for row in rows])), 2),
        "seconds": {name: round(float(found.sum()), 3) for name, found in seconds.items()},
        "speedup": {
            name: round(float(np.median(by_turn(reference) / by_turn(found))), 3)
            for name, found in seconds.items()
        },
    }
