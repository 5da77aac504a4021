"""Who may use the machine when: exclusive stages alone, others side by side, nobody forgotten."""

import os
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.slots import Slots, Stopped, gpus
from stages.command import cores_to_use


class Claims:
    """Threads that claim a slot, and the order in which they were served."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.served: list[int] = []
        self.threads: dict[int, int] = {}
        self.gpus: dict[int, str | None] = {}
        self.release = threading.Event()
        self._running: list[threading.Thread] = []

    def start(self, place: int, *, is_exclusive: bool = False) -> None:
        def work() -> None:
            with self.slots.claim(place, is_exclusive=is_exclusive) as share:
                self.served.append(place)
                self.threads[place] = share.num_threads
                self.gpus[place] = share.gpu
                self.release.wait(10)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._running.append(thread)

    def served_after(self, seconds: float) -> set[int]:
        time.sleep(seconds)
        return set(self.served)

    def finish(self) -> None:
        self.release.set()
        for thread in self._running:
            thread.join(10)
            assert not thread.is_alive()


def test_shared_stages_run_side_by_side_up_to_the_limit_and_share_the_cores() -> None:
    claims = Claims(Slots(2, cores=8, settle_seconds=0.02))
    for place in range(3):
        claims.start(place)
    assert claims.served_after(0.3) == {0, 1}
    claims.finish()
    assert claims.threads == {0: 4, 1: 4, 2: 4}


def test_a_share_of_the_cores_is_never_less_than_one_thread() -> None:
    with Slots(4, cores=2, settle_seconds=0).claim(0, is_exclusive=False) as share:
        assert share.num_threads == 1


def test_stages_side_by_side_get_a_gpu_each_and_an_exclusive_one_all() -> None:
    slots = Slots(4, cores=8, gpus=["2", "5"], settle_seconds=0)
    claims = Claims(slots)
    for place in range(4):
        claims.start(place)
    assert claims.served_after(0.2) == {0, 1, 2, 3}
    claims.finish()
    assert sorted(str(gpu) for gpu in claims.gpus.values()) == ["2", "2", "5", "5"]
    with slots.claim(4, is_exclusive=True) as share:
        assert share.gpu is None
    with slots.claim(5, is_exclusive=False) as first:
        with slots.claim(6, is_exclusive=False) as second:
            assert second.gpu != first.gpu
        # Given back, it is the one with fewer stages again.
        with slots.claim(7, is_exclusive=False) as third:
            assert third.gpu == second.gpu
    with Slots(2, cores=2, gpus=["0"], settle_seconds=0).claim(0, is_exclusive=False) as share:
        assert share.gpu is None


def test_the_gpus_are_those_that_the_flow_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f2e")
    assert gpus() == ["3", "GPU-8f2e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []


def test_an_exclusive_stage_gets_every_core_and_runs_alone() -> None:
    claims = Claims(Slots(2, cores=8, settle_seconds=0.02))
    claims.start(0, is_exclusive=True)
    claims.start(1)
    assert claims.served_after(0.3) == {0}
    claims.finish()
    assert claims.threads == {0: 8, 1: 4}


def test_nothing_slips_in_before_an_exclusive_stage_that_waits() -> None:
    slots = Slots(2, cores=2, settle_seconds=0.02)
    first, later = Claims(slots), Claims(slots)
    first.start(0)
    assert first.served_after(0.2) == {0}
    later.start(1, is_exclusive=True)
    later.start(2)
    # A slot is free, yet stage 2 waits: else a stream of such stages would starve stage 1.
    assert later.served_after(0.3) == set()
    first.finish()
    assert later.served_after(0.2) == {1}
    later.finish()
    assert later.served == [1, 2]


def test_claims_of_one_moment_are_served_in_the_order_of_the_graph() -> None:
    claims = Claims(Slots(1, cores=2, settle_seconds=0.2))
    for place in (3, 1, 2, 0):
        claims.start(place)
    claims.release.set()
    claims.finish()
    assert claims.served == [0, 1, 2, 3]


def test_a_stop_turns_away_those_who_wait_and_those_who_come() -> None:
    slots = Slots(1, cores=2, settle_seconds=0)
    refused = []

    def wait_in_vain() -> None:
        try:
            with slots.claim(1, is_exclusive=True):
                pass
        except Stopped:
            refused.append(1)

    with slots.claim(0, is_exclusive=False):
        waiting = threading.Thread(target=wait_in_vain)
        waiting.start()
        time.sleep(0.1)
        slots.stop()
        waiting.join(5)
    assert refused == [1]
    with pytest.raises(Stopped), slots.claim(2, is_exclusive=False):
        pass


def test_a_stage_that_raises_gives_its_slot_back() -> None:
    slots = Slots(1, cores=2, settle_seconds=0)
    with pytest.raises(RuntimeError), slots.claim(0, is_exclusive=True):
        raise RuntimeError
    with slots.claim(1, is_exclusive=True):
        pass


def test_exclusive_stages_of_two_flows_with_one_lock_run_one_after_the_other(
    tmp_path: Path,
) -> None:
    flows = [Slots(1, 2, machine_lock=tmp_path / "gpu", settle_seconds=0) for _ in range(3)]
    first, second, third = (Claims(slots) for slots in flows)
    first.start(0, is_exclusive=True)
    assert first.served_after(0.1) == {0}
    second.start(0, is_exclusive=True)
    third.start(0)
    # Only exclusive stages want the whole machine.
    assert (second.served_after(0.2), third.served) == (set(), [0])
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: flows[2].claim(1, is_exclusive=True).__enter__())
        third.release.set()
        time.sleep(0.1)
        flows[2].stop()
        with pytest.raises(Stopped):
            waiting.result(10)
    first.finish()
    assert second.served_after(1.0) == {0}
    second.finish()


def test_machine_lock_that_another_user_made_can_be_held() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "gpu"
        lock.touch()
        lock.chmod(0o444)
        Path(folder).chmod(0o755)
        if (child := os.fork()) == 0:
            code = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                with Slots(1, 2, machine_lock=lock).claim(0, is_exclusive=True):
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("seed", range(3))
def test_many_claims_all_end_and_never_break_the_rules(seed: int) -> None:
    rng = random.Random(seed)
    slots = Slots(3, cores=4, settle_seconds=0.001)
    lock = threading.Lock()
    running: list[bool] = []
    broken: list[str] = []

    def work(place: int, is_exclusive: bool, pause: float) -> None:
        time.sleep(pause)
        with slots.claim(place, is_exclusive=is_exclusive):
            with lock:
                running.append(is_exclusive)
                if len(running) > 3 or (any(running) and len(running) > 1):
                    broken.append(f"{place}: {running}")
            time.sleep(0.002)
            with lock:
                running.remove(is_exclusive)

    threads = [
        threading.Thread(
            target=work, args=(place, rng.random() < 0.3, 0.05 * rng.random()), daemon=True
        )
        for place in range(60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert broken == []


def test_a_limit_on_threads_in_the_environment_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores_to_use() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert cores_to_use() >= 1
