"""The chunked vocabulary losses equal the textbook form, in value and in every gradient."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stages.objectives import vocabulary_logits, vocabulary_sums
from stages.objectives.soft_targets import label_ce, mixed_label_ce, soft_target_kl
from stages.objectives.vocabulary import vocabulary_losses
from stages.objectives.vocabulary_logits import Buffers, Head

N, V, D = 23, 37, 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows a chunk, two a block: 23 rows are three full chunks and a short one."""
    monkeypatch.setitem(vocabulary_logits.CHUNK_ROWS, "cpu", 7)
    monkeypatch.setattr(vocabulary_sums, "BLOCK_ROWS", 2)


def heads(dtype: torch.dtype = torch.float64) -> tuple[Head, Head, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def head(width: int) -> Head:
        shapes = ((N, width), (V, width), (V,))
        return Head(
            *(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
        )

    student, teacher = head(D), head(D + 4)
    for tensor in student:
        tensor.requires_grad_()
    return student, teacher, torch.tensor([3, 36, 0, 0, 9])


def textbook(student: Head, teacher: Head, labels: Tensor, weights: tuple[float, float]) -> Tensor:
    logits = student.features_ND @ student.weight_VD.T + student.bias_V
    taught = teacher.features_ND @ teacher.weight_VD.T + teacher.bias_V
    return (
        weights[0] * soft_target_kl(logits, taught, 2.0).mean
        + weights[1] * label_ce(logits[: len(labels)], labels).mean
    )


def chunked(student: Head, teacher: Head | None, labels: Tensor, ce: float, mlm: float) -> Tensor:
    return vocabulary_losses(
        student,
        teacher,
        labels,
        temperature=2.0,
        ce_coefficient=ce / N,
        mlm_coefficient=mlm / len(labels),
    ).total


@pytest.mark.parametrize("num_others", [1, 2])
def test_several_teachers_teach_the_mean_of_their_probabilities(num_others: int) -> None:
    student, *teachers, labels = *heads()[:2], *(heads()[0] for _ in range(num_others)), heads()[2]
    for number, teacher in enumerate(teachers[1:], start=1):
        teacher.weight_VD.detach().mul_(number).neg_()
    taught = torch.stack(
        [((t.features_ND @ t.weight_VD.T + t.bias_V) / 2).softmax(-1) for t in teachers]
    ).mean(dim=0)
    logits = student.features_ND @ student.weight_VD.T + student.bias_V
    ce = (taught * (taught.log() - (logits / 2).log_softmax(-1))).sum() * 4 / N
    expected = 5 * ce + 2 * label_ce(logits[: len(labels)], labels).mean
    found = vocabulary_losses(
        student, teachers[0], labels, others=teachers[1:], temperature=2.0,
        ce_coefficient=5 / N, mlm_coefficient=2 / len(labels),
    )  # fmt: skip
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert found.ce_sum.item() == pytest.approx(ce.item() * N, rel=1e-9)
    for mine, textbooks in zip(
        torch.autograd.grad(found.total, list(student)),
        torch.autograd.grad(expected, list(student)),
        strict=True,
    ):
        torch.testing.assert_close(mine, textbooks)


def test_what_every_teacher_rules_out_stays_finite() -> None:
    student, teacher, labels = heads(torch.float32)
    sure = teacher._replace(bias_V=torch.zeros(V).index_fill(0, torch.tensor([4]), 1e4))
    found = vocabulary_losses(
        student, sure, labels, others=[sure], temperature=2.0,
        ce_coefficient=1.0, mlm_coefficient=0.0,
    )  # fmt: skip
    alone = chunked(student, sure, labels, N, 0.0)
    assert found.total.item() == pytest.approx(alone.item(), rel=1e-4)


@pytest.mark.parametrize(("ce", "mlm"), [(5.0, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_equals_the_textbook_form_in_value_and_gradients(ce: float, mlm: float) -> None:
    student, teacher, labels = heads()
    expected = textbook(student, teacher, labels, (ce, mlm))
    expected_gradients = torch.autograd.grad(expected, list(student))
    actual = chunked(student, teacher, labels, ce, mlm)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    for got, want in zip(
        torch.autograd.grad(actual, list(student)), expected_gradients, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_without_a_teacher_only_the_labels_count() -> None:
    student, _, labels = heads()
    logits = student.features_ND @ student.weight_VD.T + student.bias_V
    expected = torch.autograd.grad(label_ce(logits[: len(labels)], labels).mean, list(student))
    actual = torch.autograd.grad(chunked(student, None, labels, 5.0, 1.0), list(student))
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_float32_stays_within_its_tolerance() -> None:
    exact = textbook(*heads(), (5.0, 2.0)).item()
    assert chunked(*heads(torch.float32), 5.0, 2.0).item() == pytest.approx(exact, rel=1e-5)


def test_bfloat16_features_keep_a_float32_softmax() -> None:
    student, teacher, labels = heads(torch.bfloat16)
    total = chunked(student, teacher, labels, 5.0, 2.0)
    assert total.dtype == torch.float32
    wide = Head(*(t.detach().float() for t in student)), Head(*(t.float() for t in teacher))
    assert total.item() == pytest.approx(textbook(*wide, labels, (5.0, 2.0)).item(), rel=0.02)
    assert torch.autograd.grad(total, student.features_ND)[0].dtype == torch.bfloat16


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    student, teacher, labels = heads()
    whole = chunked(student, teacher, labels, 5.0, 2.0).item()
    parts = 0.0
    # Labelled rows come first: rows 0 to 4 of the whole batch.
    for rows, theirs in ((slice(0, 4), labels[:4]), (slice(4, 15), labels[4:]), (slice(15, N), [])):
        parts += vocabulary_losses(
            student._replace(features_ND=student.features_ND[rows]),
            teacher._replace(features_ND=teacher.features_ND[rows]),
            torch.as_tensor(theirs, dtype=torch.int64),
            temperature=2.0,
            ce_coefficient=5.0 / N,
            mlm_coefficient=2.0 / len(labels),
        ).total.item()
    assert parts == pytest.approx(whole, rel=1e-12)


def test_a_row_counts_as_often_as_its_importance_says() -> None:
    student, teacher, labels = heads()
    importance = torch.ones(N, dtype=torch.float64)
    importance[-3:] = torch.tensor([3.0, 0.0, 0.5])
    logits, taught = (h.features_ND @ h.weight_VD.T + h.bias_V for h in (student, teacher))
    rows = sum(
        importance[i] * soft_target_kl(logits[i : i + 1], taught[i : i + 1], 2.0).sum
        for i in range(N)
    )
    expected = torch.autograd.grad(rows / N, list(student))
    losses = vocabulary_losses(
        student,
        teacher,
        labels,
        temperature=2.0,
        ce_coefficient=1 / N,
        mlm_coefficient=0.0,
        importance_N=importance,
    )
    assert losses.ce_sum.item() == pytest.approx(rows.item(), rel=1e-12)
    for got, want in zip(torch.autograd.grad(losses.total, list(student)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_mobileberts_mixed_labels_are_soft_targets_at_labelled_rows_at_temperature_one() -> None:
    """Half the label and half the teacher's distribution: equal but for the teacher's entropy."""
    student, teacher, labels = heads()
    student = student._replace(features_ND=student.features_ND[:5])
    teacher = teacher._replace(features_ND=teacher.features_ND[:5])
    logits, taught = (h.features_ND @ h.weight_VD.T + h.bias_V for h in (student, teacher))
    expected = mixed_label_ce(logits, taught, labels).sum
    losses = vocabulary_losses(
        student, teacher, labels, temperature=1.0, ce_coefficient=0.5, mlm_coefficient=0.5
    )
    log = torch.log_softmax(taught, dim=-1)
    entropy = -(log.exp() * log).sum()
    assert (losses.total + 0.5 * entropy).item() == pytest.approx(expected.item(), rel=1e-12)
    leaves = [student.weight_VD, student.bias_V]
    for got, want in zip(
        torch.autograd.grad(losses.total, leaves),
        torch.autograd.grad(expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_kept_buffers_change_no_result() -> None:
    buffers = Buffers()
    totals = []
    for rows in (N, 9, N):
        student, teacher, labels = heads()
        for kept in (buffers, None):
            losses = vocabulary_losses(
                student._replace(features_ND=student.features_ND[:rows]),
                teacher._replace(features_ND=teacher.features_ND[:rows]),
                labels,
                temperature=2.0,
                ce_coefficient=1.0,
                mlm_coefficient=1.0,
                buffers=kept,
            )
            totals.append((losses.total, *torch.autograd.grad(losses.total, list(student)[1:])))
    for with_kept, fresh in zip(totals[::2], totals[1::2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(with_kept, fresh, strict=True))


def test_scaling_the_total_scales_the_gradients() -> None:
    student, teacher, labels = heads()
    once = torch.autograd.grad(chunked(student, teacher, labels, 5, 2), student.bias_V)[0]
    thrice = torch.autograd.grad(3 * chunked(student, teacher, labels, 5, 2), student.bias_V)[0]
    torch.testing.assert_close(thrice, 3 * once)


def test_vocabularies_must_be_the_same() -> None:
    student, teacher, labels = heads()
    short = teacher._replace(weight_VD=teacher.weight_VD[:-1], bias_V=teacher.bias_V[:-1])
    with pytest.raises(ValueError, match="vocabulary has 36 tokens, the student's 37"):
        chunked(student, short, labels, 5.0, 2.0)


class Largest(TorchDispatchMode):
    """The most numbers that a new tensor held."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [
            x.numel() for x in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(x)
        ]
        self.numel = max(self.numel, *found, 0)
        return out


def test_no_tensor_grows_with_rows_times_words() -> None:
    words, largest = 200, []
    for num_rows in (14, 14 * 8):
        features = torch.randn(num_rows, 2, requires_grad=True)
        weight, bias = torch.randn(words, 2, requires_grad=True), torch.zeros(words)
        teacher = Head(torch.randn(num_rows, 2), torch.randn(words, 2), bias)
        with Largest() as seen:
            vocabulary_losses(
                Head(features, weight, bias), teacher, torch.arange(num_rows), temperature=2.0,
                ce_coefficient=1.0, mlm_coefficient=1.0,
            ).total.backward()  # fmt: skip
        largest.append(seen.numel)
    # A chunk of seven rows, whatever their number.
    assert largest == [7 * words] * 2
