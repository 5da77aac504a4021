"""What only a GPU computes, against float64 on the same numbers; without one nothing is shown."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from stages.objectives import vocabulary_logits
from stages.objectives.soft_targets import label_ce, soft_target_kl
from stages.objectives.vocabulary import vocabulary_losses
from stages.objectives.vocabulary_logits import Head
from stages.students.heads import encode
from stages.training import loop
from stages.training.compiling import compile_layers
from stages.training.processes import Processes
from stages.training.spending import Outcome
from tests.tiny_models import batches, launch, schedule, triple_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

N, M, V, WIDTH = 300, 45, 9001, 64
GPU = torch.device("cuda")
EXACT = {torch.float32: 2e-4, torch.bfloat16: 2e-2}


def head(seed: int, width: int = WIDTH) -> Head:
    generator = torch.Generator().manual_seed(seed)
    features, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((N, width), (V, width), (V,))
    )
    return Head(features, weight * 0.3, bias)


def on_gpu(one: Head, dtype: torch.dtype) -> Head:
    # As under autocast: features in the narrow type, parameters in float32.
    features, weight, bias = (x.to(GPU, torch.float32) for x in one)
    return Head(features.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_())


def distance(mine: Tensor, exact: Tensor) -> float:
    return float((mine.double().cpu() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("chunk", [128, 4096])
@pytest.mark.parametrize("has_teacher", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
def test_kernel_equals_the_textbook_form(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    chunk: int,
    has_teacher: bool,
    sampled: bool,
) -> None:
    monkeypatch.setitem(vocabulary_logits.CHUNK_ROWS, "cuda", chunk)
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, V, (M,), generator=generator)
    importance = torch.rand(N, generator=generator, dtype=torch.float64) + 0.5
    mine, taught = on_gpu(head(0), dtype), on_gpu(head(1, 96), dtype)
    exact = [x.detach().double().cpu().requires_grad_() for x in mine]
    logits = exact[0] @ exact[1].T + exact[2]
    mlm = label_ce(logits[:M], labels).sum
    expected = 2 / M * mlm
    if has_teacher:
        features, weight, bias = (x.detach().double().cpu() for x in taught)
        per_row = [
            soft_target_kl(logits[i : i + 1], (features[i] @ weight.T + bias)[None], 2.0).sum
            for i in range(N)
        ]
        weights = importance if sampled else torch.ones(N)
        expected = expected + 5 / N * (torch.stack(per_row) * weights).sum()
    found = vocabulary_losses(
        mine,
        taught if has_teacher else None,
        labels.to(GPU),
        temperature=2.0,
        ce_coefficient=5 / N,
        mlm_coefficient=2 / M,
        importance_N=importance.float().to(GPU) if sampled and has_teacher else None,
    )
    assert float(found.total) == pytest.approx(float(expected), rel=EXACT[dtype])
    for got, want in zip(
        torch.autograd.grad(found.total, list(mine)),
        torch.autograd.grad(expected, exact),
        strict=True,
    ):
        assert distance(got, want) < EXACT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [True, False])
def test_sequences_side_by_side_are_what_they_are_alone(dtype: torch.dtype, compiled: bool) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=90, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, initializer_range=0.2,
    )  # fmt: skip
    model = BertForMaskedLM(config).to(GPU).eval()
    exact = BertForMaskedLM(config).double().eval()
    exact.load_state_dict(model.state_dict())
    if compiled:
        compile_layers(model)
    for lengths in ([5, 16, 9, 16], [16, 16, 16, 16], [1, 2, 7, 12], [3, 16, 11, 4]):
        ids = torch.randint(0, 90, (4, 16))
        mask = (torch.arange(16) < torch.tensor(lengths)[:, None]).long()
        with (
            torch.no_grad(),
            torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype != torch.float32),
        ):
            hidden = encode(model, ids.to(GPU), mask.to(GPU))
        for row, length in enumerate(lengths):
            alone = exact.bert(ids[row : row + 1, :length]).last_hidden_state[0]
            assert distance(hidden[row, :length], alone) < EXACT[dtype]
        assert not hidden[mask.to(GPU) == 0].any()


def trained(
    device: torch.device, precision: str, *, dropout: float = 0.0, compiled: bool = False
) -> Outcome:
    objective = triple_loss(dropout=dropout, compiled=compiled).to(device)
    assert objective.teacher is not None
    for model in objective.teacher.models:
        model.to(device)
    settings = schedule(precision=precision)
    return loop.train(
        objective, batches(), settings, settings.num_steps, launch(micro_batch_sequences=3),
        Processes(0, 1, device), seed=1, workspace=None, title="tiny",
    )  # fmt: skip


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 3e-2)])
def test_training_goes_as_on_a_cpu(precision: str, tolerance: float, compiled: bool) -> None:
    mine, there = (
        trained(GPU, precision, compiled=compiled),
        trained(torch.device("cpu"), "float32"),
    )
    for row, other in zip(mine.curve, there.curve, strict=True):
        for name in ("loss", "ce", "mlm", "cos"):
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    taken = loop.Steps.step

    def watched(self: loop.Steps, step: int, batch: dict[str, Tensor]) -> None:
        # The first steps load libraries.
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            taken(self, step, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop.Steps, "step", watched)
    trained(GPU, precision, dropout=0.1)
