"""A student made from all of its teacher's layers is its teacher; one made from some keeps them."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from stages.errors import SettingsError, TeacherError
from stages.objectives.soft_targets import soft_target_kl
from stages.students.distilbert import build_student
from stages.students.heads import encode, head_of, num_parameters

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


@pytest.fixture
def teacher() -> BertForMaskedLM:
    torch.manual_seed(4)
    model = BertForMaskedLM(BertConfig(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


INPUT_IDS = torch.tensor([[1, 5, 9, 33, 60, 2], [1, 7, 7, 2, 0, 0]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=INPUT_IDS, attention_mask=ATTENTION).logits[ATTENTION.bool()]


def test_student_with_every_layer_and_folding_is_the_teacher(teacher: BertForMaskedLM) -> None:
    student = build_student(teacher, [0, 1, 2])
    taught, learnt = logits(teacher), logits(student)
    assert (taught - learnt).abs().max() < 1e-4
    assert soft_target_kl(learnt, taught, 2.0).mean.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        states = [encode(m, INPUT_IDS, ATTENTION) for m in (teacher, student)]
    similarity = torch.nn.functional.cosine_similarity(*states, dim=-1)[ATTENTION.bool()]
    assert similarity.min().item() == pytest.approx(1, abs=1e-5)


def test_without_folding_the_copy_differs_as_upstream(teacher: BertForMaskedLM) -> None:
    student = build_student(teacher, [0, 1, 2], fold_token_type=False)
    assert (logits(teacher) - logits(student)).abs().max() > 0.02


def test_layers_are_taken_in_the_order_given(teacher: BertForMaskedLM) -> None:
    student = build_student(teacher, [2, 0])
    layers = teacher.bert.encoder.layer
    expected = (layers[2], layers[0])
    for mine, theirs in zip(student.distilbert.transformer.layer, expected, strict=True):
        torch.testing.assert_close(mine.ffn.lin1.weight, theirs.intermediate.dense.weight)
        torch.testing.assert_close(mine.attention.v_lin.bias, theirs.attention.self.value.bias)


def test_random_student_is_the_same_for_the_same_seed(teacher: BertForMaskedLM) -> None:
    first, again, other = (
        build_student(teacher, [0], initialise="random", seed=seed) for seed in (7, 7, 8)
    )
    torch.testing.assert_close(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_student_ties_its_head_to_its_embeddings(teacher: BertForMaskedLM) -> None:
    student = build_student(teacher, [0])
    assert student.vocab_projector.weight is student.distilbert.embeddings.word_embeddings.weight


def test_features_times_head_are_the_stock_logits(teacher: BertForMaskedLM) -> None:
    for model in (teacher, build_student(teacher, [0, 2])):
        with torch.no_grad():
            head = head_of(model.eval(), encode(model, INPUT_IDS, ATTENTION)[ATTENTION.bool()])
        torch.testing.assert_close(
            head.features_ND @ head.weight_VD.T + head.bias_V, logits(model), rtol=1e-5, atol=1e-5
        )


def test_distilbert_has_its_published_size() -> None:
    # recipes: 66.99 M for the masked language model with a tied head
    with torch.device("meta"):
        teacher = BertForMaskedLM(BertConfig())
    student = build_student(teacher, [0, 2, 4, 7, 9, 11], initialise="random")
    assert num_parameters(student) == 66_985_530


def test_missing_layer_is_named(teacher: BertForMaskedLM) -> None:
    with pytest.raises(SettingsError, match="names layer 3, but the teacher has layers 0 to 2"):
        build_student(teacher, [0, 3])


def test_teacher_that_distilbert_cannot_express_is_refused(teacher: BertForMaskedLM) -> None:
    teacher.config.layer_norm_eps = 1e-5
    with pytest.raises(TeacherError, match="layer_norm_eps 1e-05"):
        build_student(teacher, [0])
