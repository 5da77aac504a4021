"""A student of every architecture, with a tokenizer of its own kind: exported, opened, served."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_task_model import LABELS, write_task
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from stages import params
from stages.corpus.health import common_ids
from stages.corpus.reading import Sequences
from stages.corpus.tokenising import Encoder, continuations
from stages.export.export import Texts, export
from stages.export.parity import heldout_batches
from stages.export.task_model import export_task_model
from stages.registry.upload import classify, fill_mask
from tests.conftest import ROOT

POSITIONS = 48
"""Texts of so many tokens are read by each of them."""
BERTS = {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
ROBERTAS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
TEXT = "Paris is the capital of France. A good film is not a bad book, and not very long. "
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
# DistilBERT goes the whole way in test_pipeline.py.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "mobilebert": SIZES
    | {"embedding_size": 8, "intra_bottleneck_size": 8, "classifier_activation": False},
    "roberta": SIZES | {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 2},
    "modernbert": SIZES | {"cls_token_id": 0, "sep_token_id": 2},
}


def tokenizer_of(kind: str) -> Tokenizer:
    """Return one as the published models have: cased word pieces, or bytes with their spaces."""
    names = ROBERTAS if kind == "roberta" else BERTS
    special = list(names.values())
    ends = [(names["cls"], 0), (names["sep"], 2)]
    trainer: Any
    if kind in ("roberta", "modernbert"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=letters, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=90, special_tokens=special, show_progress=False
        )
    tokenizer.train_from_iterator([TEXT] * 9, trainer)
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(ends[1], ends[0])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    # The space before it belongs to it, where spaces count.
    tokenizer.add_special_tokens([AddedToken(names["mask"], lstrip=True, normalized=False)])
    return tokenizer


def config_of(kind: str, tokenizer: Tokenizer, **changes: Any) -> Any:
    values = {
        "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": POSITIONS,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.3,
    }  # fmt: skip
    return AutoConfig.for_model(kind, **(values | ARCHITECTURES[kind] | changes))


class Rows:
    """Text as rows of 24 tokens, as stages/corpus/reading.py gives them."""

    spread = Sequences.spread

    def __init__(self, tokenizer: Path) -> None:
        encoder = Encoder(tokenizer)
        (text,) = encoder.encode([TEXT * 20])
        self.special, self.sequence_length = encoder.special, 24
        self._rows = text.ids[: len(text.ids) // 24 * 24].reshape(-1, 24).copy()
        self._rows[:, 0], self._rows[:, -1] = self.special.cls, self.special.sep
        self._rows[-1, 9:] = self.special.pad
        self.num_sequences = len(self._rows)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return self._rows[indices].astype(np.int64)


def loaded(contents: dict[str, Any], folder: Path, **settings: Any) -> Any:
    """Return a model as a server opens it, and have it answer its example as promotion does."""
    import mlflow

    mlflow.pyfunc.save_model(folder, **contents)
    model = mlflow.pyfunc.load_model(str(folder), model_config=settings)
    assert len(model.predict(model.input_example)) == 1
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_student_is_exported_opened_and_served(kind: str, tmp_path: Path) -> None:
    student = tmp_path / "student"
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config_of(kind, tokenizer)).save_pretrained(student)
    tokenizer.save(str(student / "tokenizer.json"))
    # Of a teacher that was downloaded: whatever it says, the exported one says what is so.
    (student / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    settings = params.Export(students=["small"], min_int8_agreement=0.0)
    texts = Texts([], heldout_batches(Rows(student / "tokenizer.json")))
    out = tmp_path / "small"
    report = export(student, texts, settings, out, tmp_path / "r.json")
    assert report["fp32"]["max_logit_difference"] < 1e-4
    assert report["max_tokens"] == POSITIONS
    mask = "<mask>" if kind == "roberta" else "[MASK]"
    card = (out / "README.md").read_text()
    assert f"sequences of up to {POSITIONS} tokens" in card
    assert f"He put the {mask} on the table." in card

    # The README's way, and the server's.
    text = f"Paris is the {mask} of France."
    opened = AutoTokenizer.from_pretrained(out)
    assert opened.model_max_length == POSITIONS
    for texts_of_one in ((text,), (text, "Not a good book.")):
        assert opened(*texts_of_one)["input_ids"] == tokenizer.encode(*texts_of_one).ids
    best = pipeline("fill-mask", model=str(out))(text)[:3]
    served = loaded(fill_mask(out), tmp_path / "served")
    longest = mask + "." * (POSITIONS - 3)
    answers = served.predict([{"text": text}, {"text": longest}], params={"top_k": 3})
    assert [token["probability"] for token in answers[0]["masks"][0]] == pytest.approx(
        [token["score"] for token in best], abs=1e-5
    )
    assert answers[0]["masks"][0][0]["token"] == best[0]["token_str"]
    too_long = rf"row 0: .* has {POSITIONS + 1} tokens, the model reads at most {POSITIONS}"
    for wrong, said in ((longest + ".", too_long), ("No mask.", f"the text has no {mask}")):
        with pytest.raises(Exception, match=said.replace("[MASK]", r"\[MASK\]")):
            served.predict([{"text": wrong}])


@pytest.mark.slow
# A BERT is in test_task_model.py, and served in test_serving.py.
@pytest.mark.parametrize("kind", ["mobilebert", "roberta", "modernbert"])
def test_a_classifier_is_exported_opened_and_served(kind: str, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    about = {"id2label": names, "label2id": {label: i for i, label in names.items()}}
    config = config_of(kind, tokenizer, **about)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tuned)
    tokenizer.save(str(tuned / "tokenizer.json"))
    whole = params.load(ROOT / "profiles" / "offline.yaml")
    settings = whole.model_copy(
        update={
            "export": whole.export.model_copy(
                update={"max_score_drop": 50.0, "min_int8_agreement": 0.0}
            ),
            "evaluation": whole.evaluation.model_copy(
                update={"finetune": whole.evaluation.finetune.model_copy(update={"max_length": 16})}
            ),
        }
    )
    out = tmp_path / "toy"
    task = write_task(tmp_path / "task", "classification")
    report = export_task_model(tuned, task, settings, out, tmp_path / "r.json")
    assert report["scores"]["model.onnx"] == report["scores"]["PyTorch"]
    assert ("token_type_ids" in report["inputs"]) == (kind == "mobilebert")
    assert set(AutoTokenizer.from_pretrained(out)("a", "b")) == set(report["inputs"])
    # The second pair is cut where the model was tuned.
    pairs = [
        {"text": "A good film.", "text_pair": "A bad book."},
        {"text": "A very long film. " * 3, "text_pair": "A book. " * 30},
    ]
    ask = pipeline("text-classification", model=str(out), top_k=None)
    served = loaded(classify(out), tmp_path / "served").predict(pairs)
    for pair, answer in zip(pairs, served, strict=True):
        shares = {row["label"]: row["score"] for row in ask(pair, truncation=True)}
        assert answer["probabilities"] == pytest.approx(shares, abs=1e-5)


def test_tokens_of_bytes_keep_the_space_between_sentences(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer_of("roberta").save(str(path))
    encoder = Encoder(path)
    (tokens,) = encoder.encode(["Paris is good.\n\nParis is not long."])
    assert encoder.tokenizer.decode(tokens.ids) == "Paris is good. Paris is not long."
    assert tokens.starts.sum() == 2
    words = continuations(encoder.tokenizer)
    written = [encoder.tokenizer.id_to_token(i) for i in tokens.ids[words[tokens.ids]]]
    assert not [token for token in written if token.startswith("\u0120")]
    assert not words[[encoder.special.cls, encoder.special.mask]].any()
    # Of the six words `is`, twice, and `not` are English ones.
    common = common_ids(encoder.tokenizer.get_vocab(), encoder.vocabulary_size)
    assert common[tokens.ids].sum() == 3
