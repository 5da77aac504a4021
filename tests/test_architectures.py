"""Students of every architecture: what they copy, what they refuse, that they are stock models."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.errors import SettingsError, TeacherError
from stages.params import AtRandom, FromEmbeddings, FromLayers, MobileBertShape, Recipe, Shape
from stages.students.building import build
from stages.students.flops import encoder_gflops
from stages.students.heads import encode, head_of, num_parameters
from stages.students.ib_bert import IBBertConfig, IBBertForMaskedLM
from stages.students.taps import Taps, look

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
INPUT_IDS = torch.tensor([[1, 5, 9, 33, 60, 2], [1, 7, 7, 2, 0, 0]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def ib_bert(**changes: object) -> IBBertForMaskedLM:
    sizes = SIZES | {"intra_bottleneck_size": 32, "embedding_size": 8}
    return IBBertForMaskedLM(IBBertConfig(**(sizes | changes)))


def teacher_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(4)
    if kind == "bert":
        model: PreTrainedModel = BertForMaskedLM(BertConfig(**SIZES))
    elif kind == "roberta":
        model = RobertaForMaskedLM(RobertaConfig(**SIZES))
    elif kind == "modernbert":
        tokens = dict.fromkeys(("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 1)
        model = ModernBertForMaskedLM(ModernBertConfig(**SIZES, **tokens))
    else:
        model = ib_bert()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            assert parameter.isfinite().all(), name
        # As trained: padding has no gradient. MobileBERT's tokens see their neighbours' embeddings.
        model.get_input_embeddings().weight[SIZES["pad_token_id"]] = 0
    return model.eval()


def recipe(architecture, initialise) -> Recipe:
    return Recipe(
        architecture=architecture,
        initialise=initialise,
        phases=[{"name": "only", "objectives": [{"kind": "mlm"}]}],
    )


def shape(kind: str, num_layers: int, **sizes: int) -> Shape:
    return Shape(kind=kind, num_layers=num_layers, **sizes)


def layers(*indices: int) -> FromLayers:
    return FromLayers(kind="layers", layers=list(indices))


RANDOM = AtRandom(kind="random")


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=INPUT_IDS, attention_mask=ATTENTION).logits[ATTENTION.bool()]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert"])
def test_copy_of_every_layer_is_the_teacher(kind: str) -> None:
    teacher = teacher_of("bert" if kind == "distilbert" else kind)
    student = build(teacher, recipe(shape(kind, 4), layers(0, 1, 2, 3)), dropout=0.1, seed=0)
    torch.testing.assert_close(logits(student), logits(teacher))
    fewer = build(teacher, recipe(shape(kind, 2), layers(0, 1)), dropout=0.1, seed=0)
    assert not torch.allclose(logits(fewer), logits(teacher), atol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_head_of_its_own_is_copied_too(kind: str) -> None:
    torch.manual_seed(4)
    teacher = BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=False, initializer_range=1.0))
    student = build(teacher, recipe(shape(kind, 4), layers(0, 1, 2, 3)), dropout=0.1, seed=0)
    torch.testing.assert_close(logits(student), logits(teacher))


def test_layers_are_taken_in_the_order_given() -> None:
    teacher = teacher_of("bert")
    taught = teacher.bert.encoder.layer
    bert, distilbert = (
        build(teacher, recipe(shape(kind, 2), layers(3, 1)), dropout=0.0, seed=0)
        for kind in ("bert", "distilbert")
    )
    for mine, theirs in zip(bert.bert.encoder.layer, (3, 1), strict=True):
        torch.testing.assert_close(dict(mine.state_dict()), dict(taught[theirs].state_dict()))
    for mine, theirs in zip(distilbert.distilbert.transformer.layer, (3, 1), strict=True):
        torch.testing.assert_close(mine.ffn.lin1.weight, taught[theirs].intermediate.dense.weight)


def test_modernbert_layers_keep_their_kind_of_attention() -> None:
    teacher = teacher_of("modernbert")
    student = build(teacher, recipe(shape("modernbert", 2), layers(0, 3)), dropout=0.0, seed=0)
    assert student.config.layer_types == [teacher.config.layer_types[i] for i in (0, 3)]


MOBILE = MobileBertShape(
    kind="mobilebert", num_layers=3, width=16, bottleneck=8, inner=8, embedding=8, num_heads=2
)
EVERY_STUDENT = {
    "bert, narrower": ("bert", shape("bert", 2, width=12, inner=20, num_heads=3), RANDOM),
    "bert, first layers": ("bert", shape("bert", 2), layers(0, 1)),
    "distilbert": ("bert", shape("distilbert", 2), layers(0, 2)),
    "distilbert, random": ("bert", shape("distilbert", 3), RANDOM),
    "roberta": ("roberta", shape("roberta", 2), layers(0, 2)),
    "modernbert": ("modernbert", shape("modernbert", 2, width=8, num_heads=2), RANDOM),
    "bert of roberta": ("roberta", shape("bert", 2, width=12, num_heads=2), RANDOM),
    "mobilebert": ("ib_bert", MOBILE, FromEmbeddings(kind="embeddings")),
    "mobilebert tiny": ("bert", MOBILE.model_copy(update={"variant": "tiny"}), RANDOM),
}


@pytest.mark.parametrize("name", EVERY_STUDENT)
def test_student_is_a_stock_model_with_a_known_head(name: str, tmp_path: Path) -> None:
    kind, architecture, start = EVERY_STUDENT[name]
    teacher = teacher_of(kind)
    student = build(teacher, recipe(architecture, start), dropout=0.3, seed=5).eval()
    rates = {n: rate for n, rate in student.config.to_dict().items() if "dropout" in n}
    assert set(rates.values()) == {0.3}, rates
    seen = look(student, INPUT_IDS, ATTENTION, Taps(attention=frozenset({1, 2})))
    assert sorted(seen.attention) == [1, 2]
    with torch.no_grad():
        head = head_of(student, encode(student, INPUT_IDS, ATTENTION)[ATTENTION.bool()])
    mine = head.features_ND @ head.weight_VD.T + head.bias_V
    torch.testing.assert_close(mine, logits(student), rtol=1e-4, atol=1e-5)

    student.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = AutoModelForMaskedLM.from_pretrained(tmp_path, local_files_only=True)
    torch.testing.assert_close(logits(again), logits(student))
    assert "tapped" not in (tmp_path / "config.json").read_text()


class Stopwatch:
    """Which layers of a model ended."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.ended: list[int] = []
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for index, layer in enumerate(layers):
            layer.register_forward_hook(lambda *_, index=index: self.ended.append(index))


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "ib_bert"])
@pytest.mark.parametrize(
    ("hidden", "attention", "num_ended"),
    [((0,), (), 0), ((0, 2), (), 2), ((1, 3), (2,), 3), ((1,), (3,), 2), ((), (2,), 1)],
)
def test_nothing_is_computed_after_what_is_looked_at(
    kind: str, hidden: tuple[int, ...], attention: tuple[int, ...], num_ended: int
) -> None:
    model, taps = teacher_of(kind), Taps(frozenset(hidden), frozenset(attention))
    whole = look(model, INPUT_IDS, ATTENTION, taps)
    watch = Stopwatch(model)
    part = look(model, INPUT_IDS, ATTENTION, taps, to_the_end=False)
    assert watch.ended == list(range(num_ended))
    assert part.last_BSD is None
    assert part.hidden.keys() == whole.hidden.keys() == set(hidden)
    for index in hidden:
        torch.testing.assert_close(part.hidden[index], whole.hidden[index])
    for index in attention:
        torch.testing.assert_close(part.attention[index].queries, whole.attention[index].queries)
    # What was hooked is as it was, and the last hidden state needs all layers.
    watch.ended.clear()
    look(model, INPUT_IDS, ATTENTION, Taps(hidden=frozenset({0, 4})), to_the_end=False)
    assert watch.ended == [0, 1, 2, 3]


@pytest.mark.parametrize("architecture", [MOBILE, shape("distilbert", 1), shape("bert", 1)])
def test_random_student_is_the_same_for_the_same_seed(architecture) -> None:
    teacher = teacher_of("bert")
    first, again, other = (
        build(teacher, recipe(architecture, RANDOM), dropout=0.0, seed=seed) for seed in (7, 7, 8)
    )
    torch.testing.assert_close(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_mobilebert_takes_embeddings_and_classifier_from_ib_bert() -> None:
    teacher = teacher_of("ib_bert")
    start = FromEmbeddings(kind="embeddings")
    student = build(teacher, recipe(MOBILE, start), dropout=0.0, seed=0)
    for mine, theirs in (
        (student.mobilebert.embeddings, teacher.mobilebert.embeddings),
        (student.cls, teacher.cls),
    ):
        torch.testing.assert_close(dict(mine.state_dict()), dict(theirs.state_dict()))
    assert student.cls.predictions.decoder.weight is student.get_input_embeddings().weight


def test_ib_bert_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    teacher = teacher_of("ib_bert")
    teacher.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path, local_files_only=True)
    assert type(again) is IBBertForMaskedLM
    torch.testing.assert_close(logits(again), logits(teacher))
    encoder = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    torch.testing.assert_close(
        encoder(INPUT_IDS, attention_mask=ATTENTION).last_hidden_state[ATTENTION.bool()],
        encode(teacher, INPUT_IDS, ATTENTION)[ATTENTION.bool()],
    )
    scored = AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True)
    torch.testing.assert_close(
        scored.base_model.encoder.layer[0].attention.self.query.weight,
        teacher.base_model.encoder.layer[0].attention.self.query.weight,
    )


def test_work_of_modernbert_is_counted() -> None:
    # 2 x 8 tokens x 1 layer x (4 x 16^2 + 3 x 16 x 24 + 2 x 8 x 16)
    config = ModernBertConfig(**(SIZES | {"num_hidden_layers": 1}))
    assert encoder_gflops(config, 8) == pytest.approx(2 * 8 * (1024 + 1152 + 256) / 1e9)


@pytest.mark.parametrize(
    ("kind", "architecture", "start", "message"),
    [
        (
            "bert",
            shape("bert", 2),
            layers(0, 4),
            "names layer 4, but the teacher has layers 0 to 3",
        ),
        ("bert", shape("distilbert", 2), layers(4, 0), "names layer 4, but the teacher has"),
        ("bert", shape("bert", 1, width=8), layers(0), "hidden_size is 8, the teacher's 16"),
        ("bert", shape("bert", 1, width=9, num_heads=2), RANDOM, "width of 9 cannot be split"),
        ("bert", shape("roberta", 1), layers(0), "cannot be copied into a roberta"),
        ("bert", MOBILE, FromEmbeddings(kind="embeddings"), "from an IB-BERT teacher"),
        (
            "bert",
            MOBILE.model_copy(update={"num_heads": 3}),
            RANDOM,
            "a bottleneck of 8 cannot be split into 3 heads",
        ),
        ("roberta", shape("distilbert", 1), RANDOM, "from a bert teacher, not roberta"),
        ("modernbert", shape("modernbert", 1), layers(1), "must begin with 0"),
        ("modernbert", shape("modernbert", 2), layers(0, 0), "must begin with 0, and have it once"),
        ("modernbert", shape("modernbert", 5), RANDOM, "at most the 4 layers of its teacher"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, architecture, start, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(teacher_of(kind), recipe(architecture, start), dropout=0.0, seed=0)


@pytest.mark.parametrize("kind", ["ib_bert", "roberta", "modernbert"])
def test_student_of_another_kind_is_as_wide_as_its_teacher(kind: str) -> None:
    config = build(teacher_of(kind), recipe(shape("bert", 1), RANDOM), dropout=0.0, seed=0).config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 1, 64)


def test_modernbert_student_of_another_teacher_is_of_any_depth() -> None:
    deep = recipe(shape("modernbert", 24), RANDOM)
    student = build(teacher_of("bert"), deep, dropout=0.0, seed=0)
    assert len(student.config.layer_types) == student.config.num_hidden_layers == 24
    assert logits(student).shape == (10, SIZES["vocab_size"])


def test_a_teacher_that_distilbert_cannot_express_is_refused() -> None:
    teacher = teacher_of("bert")
    teacher.config.layer_norm_eps = 1e-5
    with pytest.raises(TeacherError, match="layer_norm_eps 1e-05"):
        build(teacher, recipe(shape("distilbert", 1), layers(0)), dropout=0.0, seed=0)


def test_distilbert_has_its_published_size() -> None:
    # recipes: 66.99 M for the masked language model with a tied head
    with torch.device("meta"):
        teacher = BertForMaskedLM(BertConfig())
    student = build(teacher, recipe(shape("distilbert", 6), RANDOM), dropout=0.1, seed=0)
    assert num_parameters(student) == 66_985_530
