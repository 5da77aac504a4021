"""A teacher under autocast: its weights are rounded once, and what it answers does not change."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from stages.students.heads import encode_batch, head_of
from stages.students.ib_bert import IBBertConfig, IBBertForMaskedLM
from stages.students.taps import Taps
from stages.training.frozen_teacher import FrozenTeacher, narrowed
from tests.tiny_models import VOCABULARY, batches, tiny_teacher

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": 0,
}  # fmt: skip
BOTTLENECKS = {"intra_bottleneck_size": 8, "embedding_size": 8}
TOKENS = dict.fromkeys(("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 2)


def stock(kind: str, **sizes: int) -> Callable[[], PreTrainedModel]:
    return lambda: AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **SIZES, **sizes))


TEACHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": tiny_teacher,
    "distilbert": stock("distilbert"),
    "roberta": stock("roberta"),
    "modernbert": stock("modernbert", **TOKENS),
    "mobilebert": stock("mobilebert", **BOTTLENECKS),
    "ib_bert": lambda: IBBertForMaskedLM(IBBertConfig(**SIZES, **BOTTLENECKS)),
}


class Casts(TorchDispatchMode):
    """How often a tensor was converted to another type."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def answers(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden_BSD = encode_batch(model, batch)
    features, weight, bias = head_of(model, hidden_BSD.flatten(0, 1))
    return hidden_BSD, features.bfloat16() @ weight.T.bfloat16() + bias


@pytest.mark.parametrize("kind", TEACHERS)
def test_narrow_weights_answer_the_same_to_the_bit_with_a_cast_less_for_each(kind: str) -> None:
    torch.manual_seed(0)
    model, batch = TEACHERS[kind]().eval().requires_grad_(False), batches()(0)
    batch["attention_mask"][0, 7:] = 0
    copied = narrowed(model)
    num_narrow = sum(weight.dtype == torch.bfloat16 for weight in copied.parameters())
    found, casts = [], []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for one in (model, copied):
            with Casts() as counted:
                found.append(answers(one, batch))
            casts.append(counted.num)
    for wide, narrow in zip(*found, strict=True):
        assert torch.equal(wide, narrow)
    assert casts[0] - casts[1] == num_narrow > 0


def test_what_is_not_multiplied_is_shared() -> None:
    model = tiny_teacher()
    copied = dict(narrowed(model).named_parameters())
    for name, parameter in model.named_parameters():
        is_shared = copied[name] is parameter
        is_linear = parameter.ndim == 2 and "embeddings" not in name
        assert is_shared == (copied[name].dtype == torch.float32)
        assert not (is_shared and is_linear), name
    assert copied["bert.embeddings.word_embeddings.weight"].dtype == torch.float32
    assert copied["cls.predictions.bias"].dtype == torch.float32


def test_outside_of_autocast_a_teacher_is_as_wide_as_it_was() -> None:
    model, batch = tiny_teacher().eval(), batches()(0)
    before = encode_batch(model, batch)
    teacher = FrozenTeacher(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = teacher.hidden(batch)
    assert not torch.equal(rounded, before)
    assert torch.equal(teacher.hidden(batch), before)


@pytest.mark.parametrize("others", [0, 1])
def test_a_narrow_teacher_is_one_under_autocast(others: int) -> None:
    models, batch = [tiny_teacher() for _ in range(1 + others)], batches()(0)
    batch["rows"] = torch.arange(batch["input_ids"].numel())
    narrow, plain = FrozenTeacher(*models, narrow=True), FrozenTeacher(*models)
    hidden_BSD = narrow.hidden(batch)
    heads = [narrow.head(hidden_BSD.flatten(0, 1)), *narrow.other_heads(batch)]
    taps = Taps(hidden=frozenset({0, 2}), attention=frozenset({2}))
    seen = narrow.look(batch, taps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain.hidden(batch), hidden_BSD)
        same = plain.look(batch, taps)
        again = [plain.head(hidden_BSD.flatten(0, 1)), *plain.other_heads(batch)]
    assert len(heads) == 1 + others
    for mine, other in zip(heads, again, strict=True):
        assert torch.equal(mine.features_ND, other.features_ND.bfloat16())
        assert torch.equal(mine.weight_VD, other.weight_VD)
    assert torch.equal(seen.attention[2].queries, same.attention[2].queries)
    assert all(torch.equal(seen.hidden[index], same.hidden[index]) for index in (0, 2))
