"""Which library multiplies float32 matrices on a CPU while a model trains.

PyTorch's default on x86 is MKL, which on processors that are not Intel's leaves a fifth to a third
of their speed unused. oneDNN, which PyTorch brings as well, does not, but takes float32 products
only with the permission to round their inputs to bfloat16. Without AMX there is no kernel that
makes use of it: the products are float32 all the same, and tests/test_products.py measures it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def exact_on_onednn() -> bool:
    """Return whether this CPU's float32 products stay float32 under that permission."""
    can = torch.cpu.get_capabilities()
    amx = any(known for name, known in can.items() if name.startswith("amx"))
    return torch.backends.mkldnn.is_available() and can.get("avx512_f", False) and not amx


@contextmanager
def float32_on_onednn(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices on a CPU with oneDNN inside a block, where that is exact."""
    if device.type != "cpu" or not exact_on_onednn():
        yield
        return
    backend: Any = torch.backends.mkldnn
    products = backend.matmul
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
