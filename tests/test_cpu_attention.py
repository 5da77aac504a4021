"""Attention on a CPU is PyTorch's, and drops as many probabilities as it says, at random."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.students import cpu_attention
from stages.students.cpu_attention import attend_whole


def states(*shape: int) -> list[Tensor]:
    """Queries, keys and values as models hand them over: B x H x S x d, by a transpose."""
    generator = torch.Generator().manual_seed(4)
    batch, heads, length, width = shape
    return [
        torch.randn(batch, length, heads, width, dtype=torch.float64, generator=generator)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    ]


@pytest.fixture(params=[2 * 7**2, 2**18])
def _some_heads_at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "CHUNK_SCORES", request.param)


@pytest.mark.usefixtures("_some_heads_at_a_time")
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_without_dropout_it_is_pytorchs_in_value_and_gradients(scaling: float | None) -> None:
    given = states(2, 3, 7, 5)
    expected = F.scaled_dot_product_attention(*given, scale=scaling)
    actual = attend_whole(*given, scaling=scaling)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    for got, want in zip(
        torch.autograd.grad((actual * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("_some_heads_at_a_time")
def test_backward_drops_what_forward_dropped() -> None:
    def dropped(*given: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attend_whole(*given, dropout=0.4)

    assert torch.autograd.gradcheck(dropped, states(1, 3, 7, 2))


def test_dropped_are_as_many_as_said_and_the_rest_make_up_for_them() -> None:
    torch.manual_seed(6)
    length = 64
    query, key, _ = (x.detach() for x in states(2, 8, length, 4))
    # With the identity as values, what comes out are the probabilities themselves.
    value = torch.eye(length, dtype=torch.float64).expand(2, 8, length, length)
    whole, dropped = (attend_whole(query, key, value, dropout=p) for p in (0.0, 0.25))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    # 65,536 probabilities: a standard error of 0.0017, over all and in every part of them.
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.007)
    assert torch.allclose(kept.double().mean(dim=(0, 1, 2)), torch.tensor(0.75).double(), atol=0.07)
    assert torch.allclose(kept.double().mean(dim=(0, 1, 3)), torch.tensor(0.75).double(), atol=0.07)
    assert not torch.equal(kept[0], kept[1])


def test_what_is_dropped_follows_the_seed() -> None:
    given = states(1, 2, 9, 4)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(attend_whole(*given, dropout=0.3))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_two_calls_drop_differently() -> None:
    torch.manual_seed(1)
    given = states(1, 2, 9, 4)
    assert not torch.equal(*(attend_whole(*given, dropout=0.3) for _ in range(2)))
