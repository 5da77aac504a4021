"""Energy drawn while training, where the hardware counts it: NVML on GPUs, RAPL on CPUs.

Both count since some moment of their own, so that a difference is an energy. A machine without a
counter, or one that may not be read, has no meter: an energy that is not known is not zero.
"""

import ctypes
from pathlib import Path
from typing import Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


class Meter(Protocol):
    """Something that knows the energy drawn since it was made."""

    def joules(self) -> float:
        """Return the energy since the meter was made, in joules."""


def energy_meter(device: torch.device, is_first_here: bool) -> Meter | None:
    """Return the meter of this process's part of the machine, or None where there is none.

    Args:
        device: A GPU is measured by its own process.
        is_first_here: Whether this process measures the machine's CPUs for all that run on it.
    """
    try:
        if device.type == "cuda":
            return GpuMeter(str(torch.cuda.get_device_properties(device).uuid))
        return CpuMeter(POWERCAP) if is_first_here else NoPart()
    except (OSError, AttributeError):
        return None


class NoPart:
    """The meter of a process whose energy another one counts."""

    def joules(self) -> float:
        """Return 0."""
        return 0.0


class GpuMeter:
    """The total energy counter of one NVIDIA GPU (Volta and later), read through NVML."""

    def __init__(self, uuid: str, library: str = NVML) -> None:
        self._nvml = ctypes.CDLL(library)
        self._handle = ctypes.c_void_p()
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(self._handle))
        self._start = self._millijoules()

    def joules(self) -> float:
        """Return the energy of the whole board since the meter was made."""
        return (self._millijoules() - self._start) / 1000

    def _millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, ctypes.byref(value))
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._nvml, name)(*arguments):
            raise OSError(f"{name} answers {code}")


class CpuMeter:
    """The processor packages' counters, which wrap around: read it every few minutes at least."""

    def __init__(self, root: Path) -> None:
        self._packages = [
            folder
            for folder in sorted(root.glob("intel-rapl:*"))
            if (folder / "name").read_text().startswith("package")
        ]
        if not self._packages:
            raise FileNotFoundError(f"{root} has no package counter")
        self._last = [self._read(folder, "energy_uj") for folder in self._packages]
        self._microjoules = 0

    def joules(self) -> float:
        """Return the energy of all packages since the meter was made."""
        for i, folder in enumerate(self._packages):
            now = self._read(folder, "energy_uj")
            self._microjoules += (now - self._last[i]) % (
                self._read(folder, "max_energy_range_uj") + 1
            )
            self._last[i] = now
        return self._microjoules / 1e6

    @staticmethod
    def _read(folder: Path, name: str) -> int:
        return int((folder / name).read_text())
