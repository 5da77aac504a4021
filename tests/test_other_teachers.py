"""Teachers of other families than BERT: adapted and taught from by the stages as they are."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from stages.distillation.distill import distill
from stages.files import read_json, sha256_of
from stages.params import Params
from stages.teacher.adapt import adapt
from stages.teacher.fetch import fetch_teacher
from tests.kills import random_shards
from tests.tiny_models import ALONE
from tests.tiny_pipeline import save_tokenizer, settings

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
TOKENS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
NARROW = {"kind": "bert", "num_layers": 2, "width": 16, "num_heads": 2}
ON_LOGITS = [{"kind": "soft_targets"}, {"kind": "mlm"}, {"kind": "cosine"}]
ON_LAYERS = [
    {"kind": "attention_scores"}, {"kind": "hidden_states"}, {"kind": "relations", "num_heads": 4},
]  # fmt: skip
RANDOM = {"kind": "random"}


def random_teacher(kind: str, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind == "roberta":
        return RobertaForMaskedLM(RobertaConfig(vocab_size=vocabulary, **SIZES))
    # Layers 0 and 3 attend to everything, those between to a token's neighbours.
    config = ModernBertConfig(vocab_size=vocabulary, local_attention=8, **SIZES, **TOKENS)
    return ModernBertForMaskedLM(config)


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_students_are_distilled_from_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own family by copied layers and by none, and of another one."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    vocabulary = save_tokenizer(source)
    random_teacher(kind, vocabulary).save_pretrained(source)
    random_shards(tmp_path / "shards", vocabulary)
    own = {"kind": kind, "num_layers": 2}
    recipes = {
        "copied": (own, {"kind": "layers", "layers": [0, 3]}, ON_LOGITS + ON_LAYERS),
        "narrow": (own | {"width": 16, "num_heads": 2}, RANDOM, ON_LAYERS[1:]),
        "other": (NARROW, RANDOM, [{"kind": "soft_targets"}, *ON_LAYERS]),
    }
    chosen = settings(source, sha256_of(source / "model.safetensors"))
    chosen["distill"]["schedule"]["num_steps"] = chosen["teacher"]["adapt"]["num_steps"] = 2
    chosen["students"] |= {
        name: {
            "architecture": architecture,
            "initialise": start,
            "phases": [{"name": "only", "objectives": objectives}],
        }
        for name, (architecture, start, objectives) in recipes.items()
    }
    given = Params.model_validate(chosen)
    fetch_teacher(given.teacher.source, tmp_path / "fetched")
    paths = {
        "shards": tmp_path / "shards", "report": tmp_path / "r.json", "curve": tmp_path / "c.csv",
    }  # fmt: skip
    teacher = tmp_path / "teacher"
    adapt(Namespace(source=tmp_path / "fetched", out=teacher, **paths), given, ALONE)
    for name in recipes:
        out = tmp_path / name
        distill(Namespace(student=name, teacher=teacher, out=out, **paths), given, ALONE)
        report = read_json(paths["report"])
        assert report["heldout"]["kl"] != report["initial_heldout"]["kl"], name
        assert AutoModelForMaskedLM.from_pretrained(out).config.num_hidden_layers == 2
