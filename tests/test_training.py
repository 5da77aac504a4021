"""The loop: sums over counts, identical after a stop, halted by what is not finite."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import Interrupted, SettingsError, TrainingError
from stages.evaluation.examples import Examples, ShuffledBatches
from stages.files import read_json
from stages.objectives.hidden_states import cosine
from stages.objectives.soft_targets import label_ce, soft_target_kl
from stages.params import Masking, Weights
from stages.students.distilbert import build_student
from stages.students.heads import encode
from stages.training.batches import Batch, Batches, MaskedBatches, micro_batches
from stages.training.checkpoints import save_checkpoint
from stages.training.finite import NotFiniteError, naming_the_batch
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.heldout import measure_heldout
from stages.training.loop import train
from stages.training.masking import importance_of
from stages.training.optimisation import learning_rate
from stages.training.processes import Processes
from stages.training.spending import Outcome
from stages.training.triple_loss import TripleLoss
from tests.tiny_models import (
    ALONE,
    TRIPLE,
    batches,
    launch,
    schedule,
    tiny_sequences,
    tiny_teacher,
    triple_loss,
)


def fit(
    objective: TripleLoss,
    workspace: Path | None = None,
    source: Batches | None = None,
    **changes: object,
) -> Outcome:
    settings = schedule(**{k: v for k, v in changes.items() if k != "micro_batch_sequences"})
    machine = launch(**{k: v for k, v in changes.items() if k == "micro_batch_sequences"})
    return train(
        objective,
        source or batches(settings.batch_sequences),
        settings,
        settings.num_steps,
        machine,
        ALONE,
        seed=3,
        workspace=workspace,
        title="tiny",
    )


def weights_of(objective: TripleLoss) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in objective.parameters()])


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_loss_is_the_sum_of_the_papers_terms(positions: str) -> None:
    objective, batch = triple_loss(positions=positions).eval(), batches()(0)
    total, _ = objective(batch, objective.counts(batch))
    real, masked = batch["attention_mask"].bool(), batch["labels"] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        teacher = objective.teacher.models[0]
        student_logits, teacher_logits = (
            objective.student(**inputs).logits,
            teacher(**inputs).logits,
        )
        states = [
            encode(m, **{f"{k}_BS": v for k, v in inputs.items()})
            for m in (objective.student, teacher)
        ]
    rows = real if positions == "all" else masked
    expected = (
        5 * soft_target_kl(student_logits[rows], teacher_logits[rows], 2.0).mean
        + 2 * label_ce(student_logits[masked], batch["labels"][masked]).mean
        + cosine(*states, batch["attention_mask"]).mean
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_positions_are_all_positions_in_expectation() -> None:
    rng = np.random.default_rng(2)
    whole, sampled = triple_loss().eval(), triple_loss(positions="sampled").eval()
    batch = batches()(0)
    labels, real = batch["labels"].numpy(), batch["attention_mask"].bool().numpy()
    expected, _ = whole(batch, whole.counts(batch))
    assert sampled.counts(batch) == whole.counts(batch)
    values = []
    for _ in range(150):
        drawn = torch.from_numpy(importance_of(labels, real, 0.3, rng))
        values.append(sampled(batch | {"importance": drawn}, sampled.counts(batch))[0].item())
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(expected.item(), abs=4 * error)
    everywhere = torch.from_numpy(importance_of(labels, real, 1.0, rng))
    alike, _ = sampled(batch | {"importance": everywhere}, sampled.counts(batch))
    assert alike.item() == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_run_stopped_goes_on_to_the_identical_student(tmp_path: Path) -> None:
    def source() -> Batches:
        return batches(sampled_fraction=0.2)

    undisturbed = triple_loss(dropout=0.1, positions="sampled")
    fit(undisturbed, source=source())
    stopped = triple_loss(dropout=0.1, positions="sampled")
    with pytest.raises(Interrupted):
        fit(stopped, tmp_path, stopping(source(), 4, signal.SIGINT))
    resumed = triple_loss(dropout=0.1, positions="sampled")
    fit(resumed, tmp_path, source())
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))


@pytest.mark.parametrize("name", ["ce", "mlm", "cos"])
def test_every_weight_changes_the_result(name: str) -> None:
    without = Weights.model_validate(TRIPLE.model_dump() | {name: 0.0})
    assert name not in triple_loss(without).terms
    both = [triple_loss(weights) for weights in (TRIPLE, without)]
    for objective in both:
        fit(objective, num_steps=2)
    assert not torch.equal(weights_of(both[0]), weights_of(both[1]))


def test_without_a_taught_term_the_teacher_is_not_run() -> None:
    assert triple_loss(Weights(ce=0, mlm=1, cos=0)).teacher is None


def test_teacher_stays_in_eval_mode_and_receives_no_gradient() -> None:
    objective, batch = triple_loss(), batches()(0)
    objective.train()
    first, second = (objective.teacher.hidden(batch) for _ in range(2))
    assert torch.equal(first, second)
    objective(batch, objective.counts(batch))[0].backward()
    teacher = objective.teacher.models[0]
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    trained = {id(p) for p in objective.parameters()}
    assert not trained & {id(p) for p in teacher.parameters()}


def test_teacher_in_training_mode_is_refused_wherever_in_it_the_mode_was_set() -> None:
    objective, batch = triple_loss(), batches()(0)
    objective.teacher.models[0].bert.encoder.layer[1].train()
    with pytest.raises(TrainingError, match="the teacher was put into training mode"):
        objective(batch, objective.counts(batch))


def test_student_that_shares_weights_with_its_teacher_is_refused() -> None:
    teacher = tiny_teacher()
    student = build_student(teacher, [0, 2])
    student.distilbert.embeddings.word_embeddings.weight = (
        teacher.bert.embeddings.word_embeddings.weight
    )
    with pytest.raises(TrainingError, match="student and teacher share weights"):
        TripleLoss(student, FrozenTeacher(teacher), TRIPLE)


def test_padding_changes_no_term() -> None:
    objective, batch = triple_loss().eval(), batches()(0)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    padded = {k: torch.nn.functional.pad(v, (0, 3), value=fill[k]) for k, v in batch.items()}
    for given in (batch, padded):
        assert objective.counts(given) == objective.counts(batch)
    total, sums = objective(batch, objective.counts(batch))
    padded_total, padded_sums = objective(padded, objective.counts(padded))
    assert padded_total.item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(padded_sums, sums, rtol=1e-5, atol=1e-5)


def in_double(objective: TripleLoss) -> TripleLoss:
    assert objective.teacher is not None
    objective.teacher.models[0].double()
    return objective.double()


@pytest.mark.parametrize("size", [2, 3])
def test_accumulated_micro_batches_equal_one_batch(size: int) -> None:
    # Double precision: of what rounding leaves of a gradient of 0, Adam makes a whole step.
    whole, parts = in_double(triple_loss()), in_double(triple_loss())
    curve = fit(whole).curve
    accumulated = fit(parts, micro_batch_sequences=size).curve
    assert [row["loss"] for row in accumulated] == pytest.approx(
        [r["loss"] for r in curve], rel=1e-4
    )
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=1e-3, atol=2e-4)


def test_training_lowers_the_loss_and_the_divergence_from_the_teacher() -> None:
    objective, fixed = triple_loss(), batches()
    before = measure_heldout(objective.student, objective.teacher, fixed.fixed(40))
    curve = fit(objective, num_steps=40).curve
    after = measure_heldout(objective.student, objective.teacher, fixed.fixed(40))
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert after["kl"] < before["kl"]
    assert set(curve[0]) == {"step", "loss", "ce", "mlm", "cos", "learning_rate"}


def test_what_nothing_is_measured_on_is_not_said_to_be_zero() -> None:
    source = MaskedBatches(tiny_sequences(), 8, 3, Masking(fraction=0))
    objective = triple_loss()
    measured = measure_heldout(objective.student, objective.teacher, source.fixed(8))
    assert measured.keys() == {"kl", "cos"}


def stopping(source: Batches, at: int, number: signal.Signals) -> Batches:
    """Batches that ask this very process to stop while a step is under way."""

    def batch(step: int) -> Batch:
        if step == at:
            os.kill(os.getpid(), number)
        return source(step)

    return batch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 7])
def test_stopped_run_goes_on_to_the_identical_student(
    tmp_path: Path, at: int, number: signal.Signals
) -> None:
    undisturbed = triple_loss(dropout=0.1)
    curve = fit(undisturbed).curve
    with pytest.raises(Interrupted, match=f"stopped after step {at + 1} of 8"):
        fit(triple_loss(dropout=0.1), tmp_path, stopping(batches(), at, number))
    resumed = triple_loss(dropout=0.1)
    outcome = fit(resumed, tmp_path)
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))
    assert outcome.curve == curve


def test_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    undisturbed = triple_loss(dropout=0.1)
    fit(undisturbed)
    with pytest.raises(Interrupted):
        fit(triple_loss(dropout=0.1), tmp_path, stopping(batches(), 5, signal.SIGINT))
    newest = sorted(tmp_path.glob("step-*"))[-1] / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    resumed = triple_loss(dropout=0.1)
    fit(resumed, tmp_path)
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))


def test_checkpoints_are_kept_by_count_and_of_a_finished_run_the_last(tmp_path: Path) -> None:
    def kept() -> list[str]:
        return [folder.name for folder in sorted(tmp_path.glob("step-*"))]

    with pytest.raises(Interrupted):
        fit(triple_loss(), tmp_path, stopping(batches(), 4, signal.SIGINT))
    assert kept() == ["step-00000004", "step-00000005"]
    fit(triple_loss(), tmp_path)
    assert kept() == ["step-00000008"]


def test_stop_while_the_last_checkpoint_is_written_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(workspace: Path, model: torch.nn.Module, *rest: object) -> Path:
        folder = save_checkpoint(workspace, model, *rest)
        if folder.name == "step-00000008":
            os.kill(os.getpid(), signal.SIGTERM)
        return folder

    monkeypatch.setattr("stages.training.loop.save_checkpoint", saved)
    with pytest.raises(Interrupted, match="stopped after step 8 of 8"):
        fit(triple_loss(), tmp_path)


def test_loss_that_is_not_finite_stops_before_a_checkpoint_holds_it(tmp_path: Path) -> None:
    objective = triple_loss()

    class Poisoned(MaskedBatches):
        def __call__(self, step: int) -> Batch:
            if step == 3:
                with torch.no_grad():
                    objective.student.vocab_projector.bias[7] = float("nan")
            return super().__call__(step)

    source = Poisoned(tiny_sequences(), 8, 3, Masking())
    rows = source.order.indices(3).tolist()
    with pytest.raises(
        TrainingError,
        match=rf"step 4: ce is not finite.*learning_rate \(0.01\).*was rows {rows[0]}, {rows[1]}, "
        r".*The last checkpoint is from before it",
    ):
        fit(objective, tmp_path, source)
    told = read_json(tmp_path / "not-finite.json")
    assert told == {"step": 4, "term": "ce", "rows": rows}
    fresh = triple_loss()
    outcome = fit(fresh, tmp_path)
    assert weights_of(fresh).isfinite().all()
    assert len(outcome.curve) == 8


def test_gradient_that_is_not_finite_is_told_from_the_terms(tmp_path: Path) -> None:
    objective = triple_loss()
    objective.student.vocab_projector.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite") as told:
        fit(objective, tmp_path)
    assert "checkpoint" not in str(told.value)


@pytest.mark.parametrize("in_a_workspace", [True, False])
def test_rows_of_a_tasks_batch_are_named(tmp_path: Path, in_a_workspace: bool) -> None:
    ids = [[2, 7, 3]] * 5
    source = ShuffledBatches(Examples(ids, ids, np.zeros(5, dtype=np.int64), pad=0), 2, seed=1)
    workspace = tmp_path if in_a_workspace else None
    first, second = source.order.indices(1)
    with (
        pytest.raises(TrainingError, match=f"batch was rows {first}, {second} of") as told,
        naming_the_batch(source, workspace, ALONE),
    ):
        raise NotFiniteError(2, "labels", 0.01)
    assert "checkpoint" not in str(told.value)


def test_curve_that_a_kill_cuts_between_two_rows_goes_on_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    # 402 steps make a row of every second one, and a stop after step 3 falls between two rows.
    def stop_after(step: int, workspace: Path) -> list[dict[str, float]]:
        source = stopping(batches(1), step - 1, signal.SIGINT)
        with pytest.raises(Interrupted, match=f"stopped after step {step} of"):
            fit(triple_loss(), workspace, source, num_steps=402, batch_sequences=1)
        return read_json(workspace / f"step-{step:08d}" / "state.json")["curve"]

    undisturbed = stop_after(10, tmp_path / "undisturbed")
    stop_after(3, tmp_path / "killed")
    assert stop_after(10, tmp_path / "killed") == undisturbed
    assert [row["step"] for row in undisturbed] == [2, 4, 6, 8, 10]


def test_listener_hears_the_whole_curve_at_every_row_and_when_a_run_goes_on(tmp_path: Path) -> None:
    heard: list[list[float]] = []

    def listener(curve: list[dict[str, float]]) -> None:
        heard.append([row["step"] for row in curve])

    def run(source: Batches) -> None:
        train(
            triple_loss(), source, schedule(), 8, launch(), ALONE,
            seed=3, workspace=tmp_path, title="tiny", listener=listener,
        )  # fmt: skip

    with pytest.raises(Interrupted):
        run(stopping(batches(), 1, signal.SIGINT))
    run(batches())
    assert heard[:3] == [[1], [1, 2], [1, 2]]
    assert heard[-1] == list(range(1, 9))


def test_more_processes_than_sequences_are_refused() -> None:
    crowd = Processes(0, 9, torch.device("cpu"))
    with pytest.raises(SettingsError, match="batch_sequences = 8 is fewer than the 9 processes"):
        train(
            triple_loss(), batches(), schedule(), 8, launch(), crowd,
            seed=0, workspace=None, title="",
        )  # fmt: skip


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    settings = schedule(learning_rate=1.0, warmup_fraction=0.2)
    # 10 steps, 2 of warm-up: 1/2, 1, then (10 - step) / 8
    rates = [learning_rate(settings, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    constant = schedule(learning_rate=1.0, warmup_fraction=0.0, decay="constant")
    assert {learning_rate(constant, step, 10) for step in range(10)} == {1.0}


def test_bfloat16_trains_to_nearly_the_same_loss() -> None:
    wide = fit(triple_loss(), num_steps=10).curve[-1]["loss"]
    narrow = fit(triple_loss(), num_steps=10, precision="bfloat16").curve[-1]["loss"]
    assert narrow == pytest.approx(wide, rel=0.02)


def test_a_teacher_in_bfloat16_leaves_the_student_in_float32() -> None:
    teacher = tiny_teacher()
    losses = []
    for narrow in (False, True):
        frozen = FrozenTeacher(teacher, narrow=narrow)
        objective = TripleLoss(build_student(teacher, [0, 2], dropout=0.0), frozen, TRIPLE)
        batch = batches()(0)
        total, sums = objective(batch, objective.counts(batch))
        total.backward()
        losses.append(sums)
        assert total.dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 for p in objective.parameters())
    ce, mlm, cos = (losses[1] / losses[0]).tolist()
    assert (ce, cos) == pytest.approx((1, 1), rel=0.05)
    assert (ce, mlm) != (1, mlm)
    assert mlm == 1


@pytest.mark.parametrize("positions", ["all", "sampled"])
def test_micro_batches_of_a_step_see_the_counts_of_the_whole_batch(positions: str) -> None:
    objective, batch = triple_loss(positions=positions).eval(), batches(sampled_fraction=0.3)(0)
    counts = objective.counts(batch)
    whole = objective(batch, counts)[0].item()
    parts = sum(objective(piece, counts)[0].item() for piece in micro_batches(batch, 3))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_gradient_of_tied_embeddings_is_what_autograd_forms_by_itself() -> None:
    loss, batch = triple_loss(), batches()(0)
    counts, weight = loss.counts(batch), loss.student.get_input_embeddings().weight
    loss(batch, counts)[0].backward()
    joined, weight.grad = weight.grad, None
    hidden_BSD = encode(loss.student, batch["input_ids"], batch["attention_mask"])
    loss.of_states(hidden_BSD, loss.teacher.hidden(batch), batch, counts)[0].backward()
    assert not joined.is_sparse
    torch.testing.assert_close(joined, weight.grad)
