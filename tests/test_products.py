"""Products of float32 matrices are exact to float32 whichever library makes them."""

import pytest
import torch

from stages.training.products import exact_on_onednn, float32_on_onednn

CPU = torch.device("cpu")


def worst_error() -> float:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(128, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double().T
    return float((a @ b.T - exact).abs().max() / exact.abs().max())


def test_products_inside_the_block_keep_float32() -> None:
    with float32_on_onednn(CPU):
        # bfloat16 would be wrong by 1e-3 of the largest.
        assert worst_error() < 1e-6


def test_the_library_is_as_before_after_the_block() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(KeyError), float32_on_onednn(CPU):
        raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize(
    ("can", "exact"),
    [
        ({"avx512_f": True, "amx_tile": False}, True),
        ({"avx512_f": True, "amx_tile": True}, False),
        ({"avx512_f": False}, False),
        ({"sve": True}, False),
    ],
)
def test_processors_that_would_round_are_left_alone(
    can: dict[str, bool], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    assert exact_on_onednn() is exact
