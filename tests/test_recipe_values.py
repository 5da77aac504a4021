"""What a phase trains on has the value of its textbook formula, over all its layers.

Student and teacher are run as stock models, and every loss is formed from their outputs as its
paper writes it, in a line or two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.training.batches import Batch
from tests.test_recipes import AS_WIDE, NARROW, losses_of, padded_batch, recipe
from tests.tiny_models import batches, tiny_teacher


@dataclass
class Sees:
    """A stock model's answers to a batch."""

    hidden: tuple[Tensor, ...]
    """B x S x D: the embeddings, and every layer."""
    logits: Tensor
    queries: list[Tensor]
    """B x S x D of every layer; keys and values likewise."""
    keys: list[Tensor]
    values: list[Tensor]
    num_heads: int

    def scores(self, layer: int) -> Tensor:
        """Return Q K^T / sqrt(d) of a layer, B x H x S x S."""
        query, key = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.queries[layer], self.keys[layer])
        )
        return query @ key.mT / math.sqrt(query.shape[-1])


def seen(model: PreTrainedModel, batch: Batch) -> Sees:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    out = model.eval()(**inputs, output_hidden_states=True)
    parts = {"query": [], "key": [], "value": []}
    for layer, given in zip(model.bert.encoder.layer, out.hidden_states[:-1], strict=True):
        for name, found in parts.items():
            found.append(getattr(layer.attention.self, name)(given))
    heads = model.config.num_attention_heads
    return Sees(out.hidden_states, out.logits, *parts.values(), num_heads=heads)


def kl(theirs: Tensor, mine: Tensor) -> Tensor:
    """KL of distributions given by logits, summed over the last dimension."""
    log_p, log_q = theirs.log_softmax(-1), mine.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def relations(mine: Sees, theirs: Sees, batch: Batch, *names: str) -> Tensor:
    """Return the divergence of every query's relations, summed over Q, K and V, B x H x S."""
    total = torch.zeros(())
    for of in names or ("queries", "keys", "values"):
        pair = []
        for x in (getattr(theirs, of)[-1], getattr(mine, of)[-1]):
            heads = x.unflatten(-1, (4, -1)).transpose(1, 2)
            pair.append(real_keys(heads @ heads.mT / math.sqrt(heads.shape[-1]), batch, -1e4))
        total = total + kl(*pair)
    return total


def real_keys(scores: Tensor, batch: Batch, otherwise: float) -> Tensor:
    """Return scores, B x H x S x S, with another number where the key is padding."""
    return scores.masked_fill(batch["attention_mask"][:, None, None] == 0, otherwise)


def per_sequence(values: Tensor, batch: Batch) -> Tensor:
    """Return the mean over sequences of the means over their real queries, of B x H x S."""
    lengths = batch["attention_mask"].sum(1)
    rows = [row[:, :real].mean() for row, real in zip(values, lengths, strict=True)]
    return torch.stack(rows).mean()


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-12)


Learnt = Callable[[int], nn.Module]
Form = Callable[[Sees, Sees, Learnt, Batch], Tensor]
FORMS: dict[str, Form] = {
    # Summed over the embeddings and three layers.
    "hidden_states": lambda mine, theirs, learnt, batch: sum(
        F.mse_loss(learnt(i)(mine.hidden[i]), theirs.hidden[i]) for i in range(4)
    ),
    # Summed over layers.
    "attention_scores": lambda mine, theirs, learnt, batch: sum(
        F.mse_loss(mine.scores(i), theirs.scores(i)) for i in range(3)
    ),
    # Averaged over layers, both sides normalised.
    "feature_maps": lambda mine, theirs, learnt, batch: sum(
        F.mse_loss(normed(learnt(i)(mine.hidden[i])), normed(theirs.hidden[i])) / 3
        for i in (1, 2, 3)
    ),
    # Averaged over heads and layers.
    "attention_maps": lambda mine, theirs, learnt, batch: sum(
        kl(theirs.scores(i), mine.scores(i)).mean() / 3 for i in range(3)
    ),
    # Of the last layer, averaged over heads and queries, summed over Q, K and V.
    "relations": lambda mine, theirs, learnt, batch: relations(mine, theirs, batch).mean(),
    # The first token of layers 1 and 2, normalised, averaged over examples, layers and width.
    "patience": lambda mine, theirs, learnt, batch: sum(
        F.mse_loss(F.normalize(mine.hidden[i][:, 0]), F.normalize(theirs.hidden[i][:, 0])) / 2
        for i in (1, 2)
    ),
    "mlm": lambda mine, theirs, learnt, batch: F.cross_entropy(
        mine.logits.flatten(0, 1), batch["labels"].flatten()
    ),
    "soft_targets": lambda mine, theirs, learnt, batch: (
        4 * kl(theirs.logits / 2, mine.logits / 2).mean()
    ),
    # At masked tokens, T = 1. The paper's target has the teacher's entropy in it as well.
    "mixed_labels": lambda mine, theirs, learnt, batch: (
        F.cross_entropy(mine.logits.flatten(0, 1), batch["labels"].flatten()) / 4
        + kl(theirs.logits, mine.logits)[batch["labels"] != -100].mean() * 3 / 4
    ),
    "cosine": lambda mine, theirs, learnt, batch: (
        1 - F.cosine_similarity(mine.hidden[-1], theirs.hidden[-1], dim=-1)
    ).mean(),
}
OTHER_FORMS: dict[str, tuple[dict[str, object], Form]] = {
    # As the released codes reduce them: padding is counted.
    "hidden_states": ({"reduction": "upstream"}, FORMS["hidden_states"]),
    "feature_maps": ({"reduction": "upstream"}, FORMS["feature_maps"]),
    "attention_scores": (
        {"reduction": "upstream"},
        lambda mine, theirs, learnt, batch: sum(
            F.mse_loss(
                real_keys(mine.scores(i), batch, 0.0), real_keys(theirs.scores(i), batch, 0.0)
            )
            for i in range(3)
        ),
    ),
    "attention_maps": (
        {"reduction": "upstream"},
        lambda mine, theirs, learnt, batch: sum(
            -(
                real_keys(theirs.scores(i), batch, -1e4).softmax(-1)
                * real_keys(mine.scores(i), batch, -1e4).log_softmax(-1)
            )
            .sum(-1)
            .mean()
            / 3
            for i in range(3)
        ),
    ),
    "relations": (
        {"num_heads": 4},
        lambda mine, theirs, learnt, batch: per_sequence(relations(mine, theirs, batch), batch),
    ),
    "relations per token": (
        {"num_heads": 4, "reduction": "per_token"},
        lambda mine, theirs, learnt, batch: (
            relations(mine, theirs, batch).mean(1)[batch["attention_mask"].bool()].mean()
        ),
    ),
    "relations of values": (
        {"num_heads": 4, "of": ["values"]},
        lambda mine, theirs, learnt, batch: per_sequence(
            relations(mine, theirs, batch, "values"), batch
        ),
    ),
    "patience": (
        {"layers": "last", "reduction": "paper", "normalise": False},
        lambda mine, theirs, learnt, batch: sum(
            (mine.hidden[i][:, 0] - theirs.hidden[i][:, 0]).square().sum(-1).mean() for i in (1, 2)
        ),
    ),
}
MORE = {
    "mixed_labels": {"hard_share": 0.25},
    "relations": {"num_heads": 4},
    "patience": {"layers": "last"},
    "feature_maps": {"projection": "per_layer"},
    "hidden_states": {"projection": "per_layer"},
}
SAME_WIDTH = ("patience", "cosine")


@pytest.mark.parametrize("kind", FORMS)
def test_a_phase_has_the_value_of_the_textbook(kind: str) -> None:
    batch = batches()(0)
    assert batch["attention_mask"].all()
    check({"kind": kind} | MORE.get(kind, {}), FORMS[kind], batch)


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_other_reductions_are_those_they_are_called(name: str) -> None:
    """Of sequences of two lengths."""
    kind = name.split()[0]
    settings, form = OTHER_FORMS[name]
    check({"kind": kind} | MORE.get(kind, {}) | settings, form, padded_batch())


def check(objective: dict[str, object], form: Form, batch: Batch) -> None:
    teacher, kind = tiny_teacher(), objective["kind"]
    shape = AS_WIDE if kind in SAME_WIDTH else NARROW
    (loss,) = losses_of(recipe(objective | {"weight": 3.0}, architecture=shape), teacher)
    with torch.no_grad():
        total, sums = loss(batch, loss.counts(batch))
        expected = form(
            seen(loss.student, batch),
            seen(teacher, batch),
            lambda i: loss.projections[f"{kind}_layer_{i}"],
            batch,
        )
    assert total.item() == pytest.approx(3 * float(expected), rel=1e-4)
    assert float(expected) > 1e-3
    weighted = [
        loss.weights[term] * float(part) / count
        for term, part, count in zip(loss.terms, sums, loss.counts(batch), strict=True)
    ]
    assert sum(weighted) == pytest.approx(total.item(), rel=1e-5)
