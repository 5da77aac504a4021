"""The loss curve in MLflow while training goes on.

A thread of the first process writes it: it imports MLflow (six seconds) only once training has run
for a while, so that a short run pays nothing, and whatever fails in it is said once and stops
nothing. The run is tagged with what decides the student, so a resumed training finds it and adds
the steps that are not there; registration then makes it the run of the student's lineage.
"""

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stages.command import log
from stages.errors import Interrupted
from stages.tracking.store import Store, open_store, who

TAG_TRAINING = "training"
"""Names a training by all that decides its result; the report of a student has it too."""
TAG_LINEAGE = "lineage"
"""Only registration knows a student's lineage: a run that has one is finished."""
TAG_STUDENT = "student"
CURVE = "curve/"
SECONDS_BETWEEN_BATCHES = 5.0
METRICS_PER_BATCH = 1000
SECONDS_FOR_THE_REST = 10.0
"""How long the end of training waits for the curve's last rows."""

CurveRow = dict[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """What a live run is about."""

    experiment: str
    student: str
    fingerprint: str


@contextmanager
def live_curve(
    training: Training, after_seconds: float | None
) -> Iterator[Callable[[list[CurveRow]], None] | None]:
    """Yield a listener that writes a curve to MLflow, or None where that is not wanted or there.

    Args:
        training: Decides which run.
        after_seconds: How long to train before MLflow is imported; None never does.
    """
    if after_seconds is None or importlib.util.find_spec("mlflow") is None:
        yield None
        return
    curve = LiveCurve(training, after_seconds)
    try:
        yield curve
    except Interrupted:
        curve.close("KILLED")
        raise
    except BaseException:
        curve.close("FAILED")
        raise
    curve.close("FINISHED")


class LiveCurve:
    """A listener of the loop (`stages.training.loop.train`)."""

    def __init__(self, training: Training, after_seconds: float) -> None:
        self._training, self._begin = training, time.monotonic() + after_seconds
        self._rows: list[CurveRow] = []
        self._news = threading.Event()
        self._status: str | None = None
        self._thread = threading.Thread(target=self._follow, name="live curve", daemon=True)

    def __call__(self, curve: list[CurveRow]) -> None:
        """Take the curve so far."""
        self._rows = list(curve)
        self._news.set()
        if self._thread.ident is None and time.monotonic() >= self._begin:
            self._thread.start()

    def close(self, status: str) -> None:
        """Write what is left, give the run its status, and wait a little for both."""
        self._status = status
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(SECONDS_FOR_THE_REST)

    def _follow(self) -> None:
        run: _Run | None = None
        warned = False
        while True:
            self._news.wait()
            self._news.clear()
            closing = self._status
            try:
                run = run or _Run(self._training)
                run.add(self._rows)
                if closing:
                    run.end(closing)
            # Whatever a store may come up with, training is worth more than its picture.
            except Exception as error:
                # Part of a batch may have arrived: look again what is there.
                run = None
                if not warned:
                    log.warning(
                        "no live curve in MLflow (%s); training goes on, and the whole curve is "
                        "recorded when the student is registered",
                        str(error).splitlines()[0] if str(error) else type(error).__name__,
                    )
                warned = True
            if closing:
                return
            # A store takes a batch of rows as gladly as one of them.
            deadline = time.monotonic() + SECONDS_BETWEEN_BATCHES
            while self._status is None and time.monotonic() < deadline:
                time.sleep(0.1)


class _Run:
    """The MLflow run of a training: the one it began before it was killed, or a new one."""

    def __init__(self, training: Training) -> None:
        self._store = open_store()
        self._id = _find_or_make(self._store, training)
        self._there = recorded_points(self._store, self._id)

    def add(self, rows: list[CurveRow]) -> None:
        """Write the rows that are not there."""
        now = int(time.time() * 1000)
        points = [
            (CURVE + name, value, now, int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step" and (CURVE + name, int(row["step"])) not in self._there
        ]
        log_points(self._store, self._id, points)
        self._there |= {(name, step) for name, _, _, step in points}

    def end(self, status: str) -> None:
        """Say how it ended."""
        self._store.client.set_terminated(self._id, status)


def log_points(store: Store, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    """Write points (name, value, milliseconds, step) of a curve in batches."""
    from mlflow.entities import Metric

    for start in range(0, len(points), METRICS_PER_BATCH):
        batch = [Metric(*point) for point in points[start : start + METRICS_PER_BATCH]]
        store.client.log_batch(run_id, metrics=batch)


def recorded_points(store: Store, run_id: str) -> set[tuple[str, int]]:
    """Return name and step of every point of a curve that a run has."""
    names = [name for name in store.client.get_run(run_id).data.metrics if name.startswith(CURVE)]
    return {
        (name, point.step)
        for name in names
        for point in store.client.get_metric_history(run_id, name)
    }


def unregistered_run(store: Store, experiment_id: str, fingerprint: str) -> Any | None:
    """Return the newest live run of a training that no registration has made its own."""
    runs = store.client.search_runs(
        [experiment_id],
        f"tags.{TAG_TRAINING} = '{fingerprint}'",
        order_by=["attributes.start_time DESC"],
    )
    return next((run for run in runs if TAG_LINEAGE not in run.data.tags), None)


def _find_or_make(store: Store, training: Training) -> str:
    with store.locked():
        experiment_id = store.experiment_id(training.experiment)
        run = unregistered_run(store, experiment_id, training.fingerprint)
        if run is not None:
            store.client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        made = store.client.create_run(
            experiment_id,
            run_name=training.fingerprint,
            tags={
                TAG_TRAINING: training.fingerprint,
                TAG_STUDENT: training.student,
                "mlflow.user": who(),
            },
        )
        return str(made.info.run_id)
