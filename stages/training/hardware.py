"""How fast a device multiplies matrices at best: what a run's speed is compared with."""

import platform
import re
import time
from pathlib import Path

import torch

PEAKS: dict[str, dict[str, float]] = {
    # Dense tensor-core rates without sparsity, from the makers' data sheets, in 10^12 a second.
    "B200": {"bfloat16": 2250, "float32": 80},
    "H200": {"bfloat16": 989, "float32": 67},
    "H100 PCIe": {"bfloat16": 756, "float32": 51},
    "H100": {"bfloat16": 989, "float32": 67},
    "A100": {"bfloat16": 312, "float32": 19.5},
    "L40S": {"bfloat16": 362, "float32": 91.6},
    "L40": {"bfloat16": 181, "float32": 90.5},
    "L4": {"bfloat16": 121, "float32": 30.3},
    # Neither has bfloat16 on its tensor cores: the rate is that of float16.
    "V100": {"bfloat16": 125, "float32": 15.7},
    "T4": {"bfloat16": 65, "float32": 8.1},
}
"""GPU name -> precision -> 10^12 floating-point operations a second."""
MEMORY = {
    "B200": 180, "H200": 141, "H100 PCIe": 80, "H100": 80, "A100": 40, "L40S": 48, "L40": 48,
    "L4": 24, "V100": 16, "T4": 16,
}  # fmt: skip
"""GPU name -> 10^9 bytes, of the smallest that is sold under that name."""


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the most floating-point operations that a device does in a second.

    Of a GPU what its maker says, None where it is not known here; of the CPU what a matrix product
    reaches now, with this process's threads, in a fifth of a second.
    """
    if device.type != "cuda":
        return matmul_rate()
    known = gpu_named(torch.cuda.get_device_name(device))
    return None if known is None else PEAKS[known][precision] * 1e12


def gpu_named(name: str) -> str | None:
    """Return which of the known GPUs a driver's name is of: the one that says most about it."""
    # Whole words: an L40 is no L4, and a GH200 no H200.
    found = [known for known in PEAKS if re.search(rf"\b{known}\b", name)]
    return max(found, key=len, default=None)


def device_name(device: torch.device) -> str:
    """Return what a GPU's driver calls it, or a processor's name and what PyTorch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def processor_name() -> str:
    """Return the processor's name, from Linux where the platform module knows only its family."""
    told = Path("/proc/cpuinfo")
    text = told.read_text(encoding="utf-8") if told.is_file() else ""
    found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def matmul_rate(seconds: float = 0.2) -> float:
    """Return the operations a second of float32 matrix products on the CPU: the best of several."""
    size = 1024
    a, b, out = (torch.ones(size, size) for _ in range(3))
    best, end = 0.0, time.perf_counter() + seconds
    torch.mm(a, b, out=out)
    while best == 0.0 or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
