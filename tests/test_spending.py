"""What training costs is counted over all attempts, and energy only where something measures it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from stages.files import read_json
from stages.training import energy, hardware
from stages.training.energy import CpuMeter, GpuMeter, energy_meter
from stages.training.processes import Processes
from stages.training.progress import progress_line
from stages.training.spending import Attempt, Spending
from tests.tiny_models import ALONE


class Clock:
    """A clock that the test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr("time.monotonic", lambda: self.now)


def test_device_seconds_are_those_of_all_attempts_with_what_kills_have_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first = Spending(tmp_path, ALONE)
    clock.now += 4
    assert not first.is_due()
    clock.now += 6
    assert first.is_due()
    first.note()
    assert not first.is_due()
    clock.now += 5  # and then it is killed: these five are not seen

    second = Spending(tmp_path, ALONE)
    clock.now += 20
    second.note()
    assert second.device_seconds == 10 + 20
    assert [a["seconds"] for a in read_json(tmp_path / "attempts.json")] == [10, 20]


def test_seconds_count_once_for_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    run = Spending(None, ALONE)
    run.attempts = [Attempt(8, 50.0), Attempt(1)]
    clock.now += 3
    run.note()
    assert run.device_seconds == 8 * 50 + 3


def test_energy_is_absent_unless_every_attempt_measured_it() -> None:
    run = Spending(None, ALONE)
    run.attempts = [Attempt(1, 1.0, 30.0), Attempt(1, 1.0, 12.5)]
    assert run.joules == 42.5
    run.attempts.append(Attempt(1, 1.0, None))
    assert run.joules is None


def test_damaged_account_of_earlier_attempts_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "attempts.json").write_text("[{")
    assert len(Spending(tmp_path, ALONE).attempts) == 1


def package(root: Path, number: int, name: str, microjoules: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("999999999\n")
    return folder / "energy_uj"


def test_processor_packages_are_added_up_and_may_wrap_around(tmp_path: Path) -> None:
    first = package(tmp_path, 0, "package-0", 5_000_000)
    second = package(tmp_path, 1, "package-1", 999_000_000)
    package(tmp_path, 2, "psys", 1)
    meter = CpuMeter(tmp_path)
    first.write_text("7000000")
    second.write_text("1000000")
    # 2 J, and 1 J to the end of the counter and 1 J after it.
    assert meter.joules() == pytest.approx(2 + 2)
    first.write_text("8000000")
    assert meter.joules() == pytest.approx(5)


def test_machine_without_a_counter_has_no_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert energy_meter(torch.device("cpu"), is_first_here=True) is None
    # Only one process of a machine measures its processors.
    other = energy_meter(torch.device("cpu"), is_first_here=False)
    assert other is not None
    assert other.joules() == 0


NVML = """
#include <string.h>
static unsigned long long millijoules = 1000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)&millijoules;
    return strcmp(uuid, "GPU-1234") != 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    *energy = *(unsigned long long *)device;
    millijoules += 2500;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_gpu_counter_is_read_through_the_drivers_library(tmp_path: Path) -> None:
    """A library with the three functions that are called, for there is no GPU here."""
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-o", library, tmp_path / "nvml.c"], check=True)
    meter = GpuMeter("1234", str(library))
    assert meter.joules() == 2.5
    assert meter.joules() == 5.0
    with pytest.raises(OSError, match="nvmlDeviceGetHandleByUUID answers 1"):
        GpuMeter("5678", str(library))


def test_progress_line_tells_losses_speed_and_share_of_peak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("stages.training.progress.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("stages.training.progress.peak_flops", lambda device, precision: 1e9)
    two = Processes(0, 2, torch.device("cpu"))
    with progress_line("tiny", ("ce", "mlm"), 10, 4, two, "float32", 1e6) as line:
        line.step(300)
        line.step(300)
        now[0] = 0.5
        line.show({"step": 6, "loss": 1.5, "ce": 0.25, "mlm": 0.125, "learning_rate": 1.0})
        line._bar.refresh()
        line.step(600)
        now[0] = 0.6
        line.show({"step": 7, "loss": 1.25, "ce": 0.25, "mlm": 0.125, "learning_rate": 1.0})
        line._bar.refresh()
    shown = capsys.readouterr().err
    # 600 tokens in half a second, 10^6 operations each, on two devices of 10^9 a second.
    assert "loss=1.500, ce=0.250, mlm=0.125, tokens/s=1200, of peak=60%" in shown
    assert "6/10" in shown
    # Three times the peak: it was measured too low, and is no longer spoken of.
    assert "loss=1.250, ce=0.250, mlm=0.125, tokens/s=6000]" in shown


def test_matrix_rate_of_this_machine_is_of_a_believable_size() -> None:
    assert 1e9 < hardware.matmul_rate(seconds=0.05) < 1e14


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        # Others than those whose names they hold.
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA T400 4GB", None),
    ],
)
def test_gpu_is_known_by_its_whole_name(name: str, known: str | None) -> None:
    assert hardware.gpu_named(name) == known


def test_every_known_gpu_has_both_rates_and_a_memory() -> None:
    assert all(set(rates) == {"bfloat16", "float32"} for rates in hardware.PEAKS.values())
    assert set(hardware.MEMORY) == set(hardware.PEAKS)
