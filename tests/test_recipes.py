"""Recipes as data: phases, layer objectives, padding, accumulation, resuming, stock students."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stages.distillation.layer_terms import layer_term
from stages.distillation.matching import evenly, patience_pairs
from stages.distillation.phase_loss import PhaseLoss
from stages.distillation.phases import hold_unreached, phase_losses, rate_factors, stretches
from stages.errors import Interrupted, SettingsError
from stages.params import Distill, Recipe, Student
from stages.students.building import build
from stages.training import loop
from stages.training.batches import Batch
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.loop import train
from stages.training.spending import joined
from tests.test_architectures import ib_bert
from tests.tiny_models import ALONE, batches, launch, schedule, tiny_teacher

CPU = torch.device("cpu")
SETTINGS = Distill.model_validate(
    {
        "temperature": 2.0,
        "dropout": 0.0,
        "heldout_sequences": 8,
        "schedule": {
            "num_steps": 4,
            "batch_sequences": 8,
            "learning_rate": 0.01,
            "warmup_fraction": 0.25,
        },
    }
)
NARROW = {"kind": "bert", "num_layers": 3, "width": 8, "inner": 12, "num_heads": 2}
AS_WIDE = {"kind": "bert", "num_layers": 3}
MOBILE = {
    "kind": "mobilebert", "num_layers": 3, "width": 16, "bottleneck": 8, "inner": 8,
    "embedding": 8, "num_heads": 2,
}  # fmt: skip
OBJECTIVES = {
    "hidden_states": {"kind": "hidden_states"},
    "hidden_states upstream": {"kind": "hidden_states", "reduction": "upstream"},
    "attention_scores": {"kind": "attention_scores"},
    "attention_scores upstream": {"kind": "attention_scores", "reduction": "upstream"},
    "feature_maps": {"kind": "feature_maps", "projection": "per_layer"},
    "attention_maps": {"kind": "attention_maps"},
    "attention_maps upstream": {"kind": "attention_maps", "reduction": "upstream"},
    "relations": {"kind": "relations", "num_heads": 4},
    "relations per token": {"kind": "relations", "num_heads": 4, "reduction": "per_token"},
    "patience": {"kind": "patience", "weight": 10},
    "mlm": {"kind": "mlm"},
    "soft_targets": {"kind": "soft_targets"},
    "mixed_labels": {"kind": "mixed_labels"},
}
PKD = OBJECTIVES["patience"]


def recipe(
    *objectives: dict[str, object], architecture: dict[str, object] = NARROW, **more: object
) -> Recipe:
    phases = [{"name": "only", "objectives": list(objectives)}]
    given = {"architecture": architecture, "initialise": {"kind": "random"}, "phases": phases}
    return Recipe.model_validate(given | more)


def losses_of(given: Recipe, teacher=None) -> list[PhaseLoss]:
    teacher = teacher or tiny_teacher()
    student = build(teacher, given, dropout=0.0, seed=3)
    plan = stretches(given, SETTINGS, 40, student.config.num_hidden_layers)
    return phase_losses(plan, student, FrozenTeacher(teacher), teacher.config, SETTINGS, seed=5)


def loss_of(
    *objectives: dict[str, object], architecture: dict[str, object] | None = None
) -> PhaseLoss:
    # Patience compares states as they are: its student is as wide as the teacher.
    architecture = architecture or (NARROW if PKD not in objectives else AS_WIDE)
    (loss,) = losses_of(recipe(*objectives, architecture=architecture))
    return loss


def value(loss: PhaseLoss, batch: Batch, size: int = 8) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch in micro-batches of a size, and its gradients."""
    loss.zero_grad(set_to_none=True)
    counts = loss.counts(batch)
    total = 0.0
    for start in range(0, 8, size):
        piece = {name: x[start : start + size] for name, x in batch.items()}
        part, _ = loss(piece, counts)
        part.backward()
        total += part.item()
    grads = {n: p.grad.clone() for n, p in loss.named_parameters() if p.grad is not None}
    return total, grads


def padded_batch() -> Batch:
    """Eight rows of which four are half padding."""
    batch = batches()(0)
    batch["attention_mask"][::2, 7:] = 0
    batch["labels"][::2, 7:] = -100
    return batch


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    loss, batch = loss_of(OBJECTIVES[name]), padded_batch()
    whole, whole_grads = value(loss, batch)
    parts, part_grads = value(loss, batch, size=3)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert whole > 0
    assert whole_grads.keys() == part_grads.keys()
    for key, grad in whole_grads.items():
        torch.testing.assert_close(part_grads[key], grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if "upstream" not in n])
def test_more_padding_changes_nothing(name: str) -> None:
    loss, batch = loss_of(OBJECTIVES[name]), padded_batch()
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    wider = {k: torch.cat([x, x.new_full((8, 3), fill[k])], dim=1) for k, x in batch.items()}
    assert value(loss, wider)[0] == pytest.approx(value(loss, batch)[0], rel=1e-5)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in ("mlm", "soft_targets")])
def test_an_objective_changes_the_gradient(name: str) -> None:
    """No silent no-op: mlm alone and mlm with the objective teach the encoder differently."""
    if name == "mixed_labels":
        alone, both = loss_of({"kind": "mlm", "weight": 0.5}), loss_of(OBJECTIVES[name])
    else:
        both = loss_of({"kind": "mlm"}, OBJECTIVES[name])
        alone = loss_of({"kind": "mlm"}, architecture=AS_WIDE if name == "patience" else NARROW)
    batch = padded_batch()
    key = "student.bert.encoder.layer.0.attention.self.query.weight"
    before, after = value(alone, batch)[1][key], value(both, batch)[1][key]
    assert not torch.allclose(before, after, rtol=1e-3, atol=1e-7)


def test_teacher_learns_nothing_and_answers_the_same_twice() -> None:
    teacher = tiny_teacher()
    frozen = FrozenTeacher(teacher)
    given = recipe(*(OBJECTIVES[n] for n in ("hidden_states", "attention_scores", "soft_targets")))
    student = build(teacher, given, dropout=0.0, seed=3)
    plan = stretches(given, SETTINGS, 40, 3)
    (loss,) = phase_losses(plan, student, frozen, teacher.config, SETTINGS, seed=5)
    batch = padded_batch()
    first, again = value(loss, batch)[0], value(loss, batch)[0]
    assert first == again
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any("teacher" in name for name, _ in loss.named_parameters())


def test_tinybert_attention_is_the_error_of_raw_scores() -> None:
    """Against the models' own projections, unmasked and undivided by any softmax."""
    teacher = tiny_teacher().eval()
    given = recipe({"kind": "attention_scores"}, architecture=NARROW | {"num_layers": 1})
    (loss,) = losses_of(given, teacher)
    loss.eval()
    batch = batches()(0)

    def scores(model, layer: int) -> torch.Tensor:
        states = model.bert(**{k: batch[k] for k in ("input_ids", "attention_mask")},
                            output_hidden_states=True).hidden_states[layer - 1]  # fmt: skip
        attention = model.bert.encoder.layer[layer - 1].attention.self
        q, k = (
            linear(states).view(*states.shape[:2], 2, -1).transpose(1, 2)
            for linear in (attention.query, attention.key)
        )
        return q @ k.mT / q.shape[-1] ** 0.5

    mask = batch["attention_mask"].bool()
    valid = (mask[:, :, None] & mask[:, None, :])[:, None].expand(-1, 2, -1, -1)
    expected = (scores(loss.student, 1) - scores(teacher, 3)).square()[valid].mean()
    assert value(loss, batch)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_layers_above_those_that_are_read_are_not_run() -> None:
    relations = {"kind": "relations", "num_heads": 4, "teacher_layer": 2, "student_layer": 2}
    teacher, batch, ran = tiny_teacher().eval(), padded_batch(), []
    for name, module in teacher.bert.encoder.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    (alone,) = losses_of(recipe(relations), teacher)
    _, alone_sums = alone(batch, alone.counts(batch))
    assert "layer.1.attention.self.key" in ran
    assert not [name for name in ran if name.startswith("layer.2") or "layer.1.output" in name]
    # With the whole student before it, and again after a pass that was cut short.
    (both,) = losses_of(recipe(relations, {"kind": "soft_targets"}), teacher)
    _, sums = both(batch, both.counts(batch))
    assert sums[1] == alone_sums[0]
    assert "layer.2.output.dense" in ran


def test_layers_are_matched_as_published() -> None:
    assert evenly(4, 12, embeddings=True) == ((0, 0), (1, 3), (2, 6), (3, 9), (4, 12))
    assert [t - 1 for _, t in evenly(6, 12, embeddings=False)] == [1, 3, 5, 7, 9, 11]
    assert [t for _, t in patience_pairs("skip", 6, 12)] == [2, 4, 6, 8, 10]
    assert [t for _, t in patience_pairs("skip", 3, 12)] == [4, 8]
    assert [t for _, t in patience_pairs("last", 6, 12)] == [7, 8, 9, 10, 11]
    assert [t for _, t in patience_pairs("last", 3, 12)] == [10, 11]


@pytest.mark.parametrize(
    ("projection", "expected"),
    [
        ("shared", {"hidden_states_shared"}),
        ("per_kind", {"hidden_states_embeddings", "hidden_states_layers"}),
        ("per_layer", {f"hidden_states_layer_{i}" for i in range(4)}),
    ],
)
def test_projections_are_learnt_beside_the_student(projection: str, expected: set[str]) -> None:
    loss = loss_of({"kind": "hidden_states", "projection": projection})
    assert set(loss.projections) == expected
    for linear in loss.projections.values():
        assert linear.weight.std().item() == pytest.approx(0.2, rel=0.3)
    _, grads = value(loss, batches()(0))
    for name in expected:
        assert grads[f"projections.{name}.weight"].abs().sum() > 0
    assert not any("projection" in name for name, _ in loss.student.named_parameters())


def test_patience_looks_at_the_first_token_alone() -> None:
    loss = loss_of(PKD, architecture={"kind": "bert", "num_layers": 3})
    batch = batches()(0)
    seen = loss.student.bert.encoder.layer[0].register_forward_hook(
        lambda _, __, output: output.retain_grad() or setattr(loss, "kept", output)
    )
    value(loss, batch)
    seen.remove()
    # Of layer 1, only the first token is compared; others matter through later attention.
    assert loss.kept.grad[:, 0].abs().sum() > 0
    assert loss.counts(batch) == [8 * 2 * 16]
    paper = loss_of(PKD | {"reduction": "paper"}, architecture={"kind": "bert", "num_layers": 3})
    assert value(paper, batch)[0] == pytest.approx(2 * 16 * value(loss, batch)[0], rel=1e-5)


def run(given: Recipe, folder: Path, teacher=None, **settings: object) -> dict[str, torch.Tensor]:
    """Train a recipe as the stage does and return the student's weights."""
    teacher = teacher or tiny_teacher()
    student = build(teacher, given, dropout=0.1, seed=3)
    plan = stretches(given, SETTINGS, 40, student.config.num_hidden_layers)
    losses = phase_losses(plan, student, FrozenTeacher(teacher), teacher.config, SETTINGS, seed=5)
    outcomes = []
    for index, (stretch, loss) in enumerate(zip(plan, losses, strict=True)):
        source = batches(seed=3 + index)
        (folder / str(index)).mkdir(parents=True, exist_ok=True)
        factors = rate_factors(loss, stretch.only_layer)
        hold_unreached(loss, source(0), CPU, factors)
        outcomes.append(
            train(
                loss, source, stretch.schedule, stretch.num_steps, launch(**settings), ALONE,
                seed=index, workspace=folder / str(index), title="t", rate_factors=factors,
            )
        )  # fmt: skip
    outcome = joined(outcomes)
    assert [row["step"] for row in outcome.curve] == list(range(1, outcome.num_steps + 1))
    return {name: p.detach().clone() for name, p in student.named_parameters()}


TWO_PHASES = {
    "phases": [
        {
            "name": "general",
            "objectives": [OBJECTIVES["attention_scores"], OBJECTIVES["hidden_states"]],
        },
        {"name": "predict", "objectives": [OBJECTIVES["soft_targets"], OBJECTIVES["mlm"]]},
    ]
}


def progressive(num_steps: int) -> dict[str, object]:
    """MobileBERT's three layers, taught one after the other."""
    phase = {
        "name": "transfer",
        "progressive": True,
        "objectives": [{"kind": "feature_maps"}, {"kind": "attention_maps"}],
        "schedule": SETTINGS.schedule.model_copy(update={"num_steps": num_steps}),
    }
    start = {"kind": "embeddings"}
    return {"architecture": MOBILE, "phases": [phase], "initialise": start}


@pytest.mark.parametrize(
    ("objectives", "more", "stop_at"),
    [
        ((), TWO_PHASES, 2),
        ((), TWO_PHASES, 6),
        ((PKD, OBJECTIVES["soft_targets"]), {"architecture": AS_WIDE}, 2),
        ((), progressive(6), 3),
    ],
    ids=["first phase", "second phase", "patience", "second layer of progressive transfer"],
)
def test_stopped_in_any_phase_it_ends_with_the_identical_student(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objectives: tuple[dict[str, object], ...],
    more: dict[str, object],
    stop_at: int,
) -> None:
    given = recipe(*objectives, **more)
    teacher = ib_bert(num_hidden_layers=3) if more.get("architecture") == MOBILE else tiny_teacher()
    undisturbed = run(given, tmp_path / "whole", teacher)
    real, done = loop.Steps.step, []

    def step(self, *args):
        real(self, *args)
        done.append(1)
        if len(done) == stop_at:
            raise Interrupted("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Steps, "step", step)
        with pytest.raises(Interrupted):
            run(given, tmp_path / "broken", teacher)
    resumed = run(given, tmp_path / "broken", teacher)
    assert undisturbed.keys() == resumed.keys()
    for name, weights in undisturbed.items():
        assert torch.equal(weights, resumed[name]), name


def test_mobileberts_last_token_does_not_see_padding_after_training(tmp_path: Path) -> None:
    given = recipe(
        {"kind": "feature_maps"}, {"kind": "mixed_labels"}, architecture=MOBILE,
        initialise={"kind": "embeddings"},
    )  # fmt: skip
    teacher = ib_bert(num_hidden_layers=3)
    trained = run(given, tmp_path, teacher)
    student = build(teacher, given, dropout=0.0, seed=3).eval()
    before = student.get_input_embeddings().weight.detach().clone()
    student.load_state_dict(trained, strict=False)
    student.tie_weights()
    assert not torch.equal(student.get_input_embeddings().weight, before)
    ids = batches()(0)["input_ids"][:1]
    wider = {
        "input_ids": torch.cat([ids, ids.new_zeros(1, 3)], dim=1),
        "attention_mask": torch.tensor([[1] * 12 + [0] * 3]),
    }
    with torch.no_grad():
        alone, padded = student(input_ids=ids).logits, student(**wider).logits[:, :12]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_what_no_objective_reaches_is_held(tmp_path: Path) -> None:
    start = build(tiny_teacher(), recipe(OBJECTIVES["relations"]), dropout=0.1, seed=3)
    before = {name: p.detach().clone() for name, p in start.named_parameters()}
    after = run(recipe(OBJECTIVES["relations"]), tmp_path)
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert "bert.encoder.layer.2.attention.self.value.weight" in changed
    # The last layer's output and the head have no part in its queries, keys and values.
    assert not [n for n in changed if "layer.2.output" in n or n.startswith("cls.")]


def test_without_an_objective_on_logits_the_head_is_held_and_no_logits_are_formed() -> None:
    loss = loss_of({"kind": "cosine"}, architecture=AS_WIDE)
    hold_unreached(loss, batches()(0), CPU)
    held = {name for name, p in loss.student.named_parameters() if not p.requires_grad}
    assert {name for name in held if name.startswith("cls.")} == {
        name for name, _ in loss.student.named_parameters() if name.startswith("cls.")
    }
    assert "rows" not in loss.prepare(batches()(0))


def test_work_counts_the_layers_that_run() -> None:
    teacher = ib_bert(num_hidden_layers=3)
    given = recipe(**progressive(9))
    student = build(teacher, given, dropout=0.0, seed=3)
    plan = stretches(given, SETTINGS, 40, 3)
    losses = phase_losses(plan, student, FrozenTeacher(teacher), teacher.config, SETTINGS, seed=5)
    asked = [loss.asked(SETTINGS.masking, 0.1) for loss in losses]
    assert [(a.student_layers, a.teacher_layers) for a in asked] == [
        (1 / 3,) * 2,
        (2 / 3,) * 2,
        (1, 1),
    ]
    whole = loss_of(OBJECTIVES["soft_targets"], OBJECTIVES["hidden_states"])
    assert whole.asked(SETTINGS.masking, 0.1).student_layers == 1


def test_progressive_transfer_teaches_one_layer_at_a_time() -> None:
    teacher = ib_bert(num_hidden_layers=6)
    given = recipe(**progressive(9), scale_steps=2)
    plan = stretches(given, SETTINGS, 40, 3)
    assert [(s.name, s.num_steps, s.only_layer) for s in plan] == [
        ("transfer_1", 6, 1),
        ("transfer_2", 6, 2),
        ("transfer_3", 6, 3),
    ]
    student = build(teacher, given, dropout=0.0, seed=3)
    losses = phase_losses(plan, student, FrozenTeacher(teacher), teacher.config, SETTINGS, seed=5)
    factors = rate_factors(losses[1], 2)
    hold_unreached(losses[1], batches()(0), CPU, factors)
    rates = {
        name: factors[f"student.{name}"]
        for name, p in student.named_parameters()
        if p.requires_grad
    }
    layers = {name.split(".")[3]: rate for name, rate in rates.items()}
    assert layers == {"0": 0.1, "1": 1.0}
    assert not [name for name in rates if "embeddings" in name or name.startswith("cls")]
    # The three losses are thirds of the loss of all layers together.
    together = progressive(9)["phases"][0] | {"progressive": False}
    whole = losses_of(recipe(**progressive(9) | {"phases": [together]}), teacher)
    batch = batches()(0)
    *parts, all_layers = (
        loss(batch, loss.counts(batch))[1] / torch.tensor(loss.counts(batch))
        for loss in (*losses, *whole)
    )
    torch.testing.assert_close(sum(parts), all_layers, rtol=1e-4, atol=0)


def test_lower_layers_learn_at_their_own_rate(tmp_path: Path) -> None:
    loss = loss_of(OBJECTIVES["hidden_states"])
    factors = rate_factors(loss, 2)
    hold_unreached(loss, batches()(0), CPU, factors)
    before = {name: p.detach().clone() for name, p in loss.named_parameters()}
    # Adam's first step is the learning rate, whatever the gradient: 0.01, and a tenth of it.
    train(
        loss, batches(), schedule(num_steps=1, warmup_fraction=0), 1, launch(), ALONE, seed=0,
        workspace=tmp_path, title="t", rate_factors=factors,
    )  # fmt: skip
    moved = {name: (p - before[name]).abs().max().item() for name, p in loss.named_parameters()}
    query = "student.bert.encoder.layer.{}.attention.self.query.weight"
    assert moved[query.format(1)] == pytest.approx(0.01, rel=1e-2)
    assert moved[query.format(0)] == pytest.approx(0.001, rel=1e-2)
    assert moved[query.format(2)] == 0
    assert moved["student.bert.embeddings.word_embeddings.weight"] == 0


def test_a_phase_has_its_own_schedule_masks_and_positions_where_it_says_so() -> None:
    own = {"masking": {"fraction": 0.3}, "schedule": schedule(num_steps=3, batch_sequences=4)}
    soft = {"kind": "soft_targets", "temperature": 3.0, "positions": "masked"}
    given = recipe(
        phases=[
            {"name": "one", "objectives": [soft], **own},
            {"name": "two", "objectives": [OBJECTIVES["soft_targets"]]},
        ]
    )
    plan, (one, two) = stretches(given, SETTINGS, 40, 3), losses_of(given)
    assert [(s.masking.fraction, s.num_steps, s.schedule.batch_sequences) for s in plan] == [
        (0.3, 3, 4),
        (0.15, 4, 8),
    ]
    assert (one.triple.temperature, one.triple.positions) == (3.0, "masked")
    assert (two.triple.temperature, two.triple.positions) == (2.0, "all")


def test_short_student_is_a_recipe() -> None:
    short = Student.model_validate(
        {"teacher_layers": [0, 2], "weights": {"ce": 5, "mlm": 2, "cos": 0}}
    )
    given = short.recipe()
    assert given.architecture.num_layers == 2
    assert [(o.kind, o.weight) for o in given.phases[0].objectives] == [
        ("soft_targets", 5),
        ("mlm", 2),
    ]
    (loss,) = losses_of(given)
    assert loss.weights == {"ce": 5, "mlm": 2}


@pytest.mark.parametrize(
    ("objectives", "architecture", "message"),
    [
        ([PKD], NARROW, "phase only: objective patience: the student's width is 8 and the teach"),
        ([{"kind": "relations", "num_heads": 3}], NARROW, "num_heads = 3 does not divide the stud"),
        (
            [{"kind": "relations", "num_heads": 2, "teacher_layer": 4}],
            NARROW,
            "teacher_layer = 4: the teacher has 3 layers",
        ),
        (
            [{"kind": "hidden_states", "projection": "none"}],
            NARROW,
            "the student's width is 8 and the teacher's 16",
        ),
        (
            [{"kind": "attention_scores"}],
            NARROW | {"num_heads": 4},
            "number of attention heads is 4 and the teacher's 2",
        ),
        (
            [{"kind": "attention_scores"}],
            NARROW | {"num_layers": 2},
            "3 layers do not divide evenly over the student's 2: name the pairs",
        ),
        (
            [{"kind": "attention_scores", "layers": [[1, 4]]}],
            NARROW,
            "the teacher's layer 4: it has 1 to 3",
        ),
        ([{"kind": "cosine"}], NARROW, "phase only: objective cosine: the student's width is 8"),
        (
            [PKD],
            AS_WIDE | {"num_layers": 2},
            "layers = skip: the teacher's 3 layers do not divide evenly over the student's 2; take",
        ),
    ],
)
def test_objective_that_does_not_fit_is_refused(objectives, architecture, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        loss_of(*objectives, architecture=architecture)


def test_attention_of_neighbours_alone_is_not_taken_for_attention_to_everything() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    teacher, student = (tiny_teacher().config for _ in range(2))
    teacher.layer_types = kinds
    maps = recipe(OBJECTIVES["attention_maps"]).phases[0].objectives[0]
    with pytest.raises(
        SettingsError, match="the teacher's layer 2 attends to a token's neighbours"
    ):
        layer_term(maps, student, teacher, nn.ModuleDict())
    named = maps.model_copy(update={"layers": [(2, 1)]})
    assert layer_term(named, student, teacher, nn.ModuleDict()) is not None


def test_objectives_on_logits_have_no_term_in_the_layers() -> None:
    teacher = tiny_teacher()
    for objective in recipe(OBJECTIVES["mlm"], OBJECTIVES["soft_targets"]).phases[0].objectives:
        assert layer_term(objective, teacher.config, teacher.config, nn.ModuleDict()) is None
