"""Sequences encoded side by side are what they are alone, in stock models of four architectures.

Everything in float64, so that what is equal is equal to 1e-10 and what leaks shows.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    MobileBertConfig,
    PreTrainedModel,
    RobertaConfig,
)

from stages.evaluation.classifier import TaskLoss, logits_of
from stages.evaluation.spans import span_logits
from stages.students import unpadding
from stages.students.heads import encode
from stages.students.layout import lay_out
from stages.students.taps import Taps, look
from stages.students.unpadding import ATTENTION
from stages.training.batches import micro_batches

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 20,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=20
    ),
    "mobilebert": MobileBertConfig(**SIZES, embedding_size=8, intra_bottleneck_size=8),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1),
}
LENGTHS = [5, 9, 5, 2, 7]
ARCHITECTURES = pytest.mark.parametrize("name", CONFIGS)


def classifier(name: str) -> PreTrainedModel:
    """A random classifier whose weights are large enough for every input to matter."""
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[int(i < length) for i in range(9)] for length in LENGTHS])
    ids = torch.randint(5, 40, mask.shape, generator=generator) * mask
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, mask.shape, generator=generator) * mask,
        "labels": torch.tensor([0, 1, 1, 0, 1]),
    }


def alone(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The hidden states of one sequence, L x D, by the stock model."""
    return model.base_model(input_ids=ids[None]).last_hidden_state[0]


def gradients(model: PreTrainedModel, hidden: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype)
    (hidden.flatten() * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# The third way to attend, a kernel of GPUs in half precision, cannot run here.
@pytest.mark.parametrize("attend", ["_attend_by_length", "_attend_padded"])
@ARCHITECTURES
def test_padded_batch_gives_every_sequence_what_it_has_alone(
    name: str, attend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpadding, "_attend_by_length", getattr(unpadding, attend))
    model, inputs = classifier(name), batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = encode(model, ids, mask)
    assert not hidden[mask == 0].any()
    expected = torch.cat([alone(model, row[:n]) for row, n in zip(ids, LENGTHS, strict=True)])
    torch.testing.assert_close(hidden[mask == 1], expected, rtol=0, atol=1e-10)
    found, wanted = gradients(model, hidden[mask == 1]), gradients(model, expected)
    assert found.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-10)


@ARCHITECTURES
def test_position_ids_alone_let_attention_cross(name: str) -> None:
    """The obvious way, and why it is not taken: nothing fails, and everything is wrong."""
    model, inputs = classifier(name), batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    layout = lay_out(mask)
    row = ids.flatten()[layout.places_N][None]
    with torch.no_grad():
        naive = model.base_model(input_ids=row, position_ids=layout.positions_N[None])
        right = encode(model, ids, mask).flatten(0, 1)[layout.places_N]
    assert (naive.last_hidden_state[0] - right).abs().max() > 0.01


def test_mobilebert_embeds_no_neighbour_of_another_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = classifier("mobilebert"), batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        right = encode(model, ids, mask)
        monkeypatch.setattr(
            unpadding, "_neighbours_in_the_sequence", lambda *_: contextlib.nullcontext()
        )
        leaking = encode(model, ids, mask)
    assert (leaking - right)[mask == 1].abs().max() > 0.01


def test_tokens_stand_in_order_of_sequence_length() -> None:
    layout = lay_out(batch()["attention_mask"])
    assert layout.groups == [(1, 2), (2, 5), (1, 7), (1, 9)]
    assert layout.bounds.tolist() == [0, 2, 7, 12, 19, 28]
    assert (layout.places_N // 9).tolist() == [3] * 2 + [0] * 5 + [2] * 5 + [4] * 7 + [1] * 9
    assert layout.positions_N[:12].tolist() == [0, 1, *range(5), *range(5)]
    assert layout.sequences_N.bincount().tolist() == [2, 5, 5, 7, 9]
    assert not layout.is_whole
    assert lay_out(torch.ones(3, 4)).is_whole


@ARCHITECTURES
def test_model_stays_stock(name: str, tmp_path: Path) -> None:
    """Padded input still works, and the attention function is not written to the folder."""
    model, inputs = classifier(name), batch()
    given = {n: inputs[n] for n in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = model(**given).logits
        encode(model, **{f"{n}_BS": tensor for n, tensor in given.items()})
        assert model.config._attn_implementation == ATTENTION
        assert torch.equal(model(**given).logits, before)
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


@ARCHITECTURES
def test_logits_are_the_stock_classifiers(name: str) -> None:
    model, inputs = classifier(name), batch()
    with torch.no_grad():
        logits = logits_of(model, inputs)
        rows = []
        for index, length in enumerate(LENGTHS):
            one = {n: inputs[n][index : index + 1, :length] for n in ("input_ids",)}
            if name in ("bert", "mobilebert"):
                one["token_type_ids"] = inputs["token_type_ids"][index : index + 1, :length]
            rows.append(model(**one).logits)
    torch.testing.assert_close(logits, torch.cat(rows), rtol=0, atol=1e-10)
    if hasattr(model, "dropout"):
        # All of it dropped, the head's bias is left.
        model.train().dropout.p = 1.0
        assert (logits_of(model, inputs) == model.classifier.bias).all()


@ARCHITECTURES
def test_span_logits_are_the_stock_models(name: str) -> None:
    torch.manual_seed(6)
    model = AutoModelForQuestionAnswering.from_config(CONFIGS[name]).double().eval()
    inputs = batch()
    with torch.no_grad():
        logits = span_logits(model, inputs)
        for index, length in enumerate(LENGTHS):
            one = {"input_ids": inputs["input_ids"][index : index + 1, :length]}
            if name in ("bert", "mobilebert"):
                one["token_type_ids"] = inputs["token_type_ids"][index : index + 1, :length]
            stock = model(**one)
            expected = torch.stack([stock.start_logits, stock.end_logits], dim=-1)[0]
            torch.testing.assert_close(logits[index, :length], expected, rtol=0, atol=1e-10)
            assert torch.isneginf(logits[index, length:]).all()
    if hasattr(model, "dropout"):
        model.train().dropout.p = 1.0
        inside = span_logits(model, inputs)[inputs["attention_mask"] == 1]
        assert (inside == model.qa_outputs.bias).all()


@ARCHITECTURES
def test_gradient_of_a_batch_is_that_of_its_pieces(name: str) -> None:
    model, inputs = classifier(name), batch()
    objective = TaskLoss(model, regression=False)
    counts = objective.counts(inputs)
    found = []
    for size in (5, 2):
        model.zero_grad()
        for piece in micro_batches(inputs, size):
            objective(piece, counts)[0].backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-12)


def test_a_look_at_nothing_more_than_the_last_states_pays_no_padding() -> None:
    model, inputs = classifier("bert"), batch()
    given = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        assert torch.equal(look(model, *given, Taps()).last_BSD, encode(model, *given))
        tapped = look(model, *given, Taps(hidden=frozenset({2}))).hidden[2]
        real = inputs["attention_mask"] == 1
        torch.testing.assert_close(encode(model, *given)[real], tapped[real], rtol=0, atol=1e-10)


def test_dropout_follows_the_seed() -> None:
    model, inputs = classifier("bert").train(), batch()
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(encode(model, inputs["input_ids"], inputs["attention_mask"]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
