"""What the gate asks of a student, check by check: each compares one number with its bound."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from stages import params
from stages.command import log
from stages.errors import DataError
from stages.files import sha256_of
from stages.params.teacher import WEIGHTS

SAFE_SUFFIXES = {".safetensors", ".onnx", ".json", ".txt", ".md"}
"""Kinds of file that can be read without running what they say; a pickle can not."""

NOTHING_TO_KEEP = (
    "; a teacher that scores 0 or less has nothing to be kept, and no student passes: tune it "
    "longer, or leave the task out"
)

Rule = Literal["at least", "at most", "above", "below", "reported"]


@dataclass(frozen=True, slots=True)
class Check:
    """One named comparison of a number with its bound."""

    name: str
    value: float | None
    """None where the number does not exist, which does not pass."""
    rule: Rule
    threshold: float | None
    meaning: str

    @property
    def is_judged(self) -> bool:
        """Say whether the verdict asks for it; else it is only reported."""
        return self.rule != "reported"

    @property
    def passed(self) -> bool:
        """Say whether the value keeps the rule; a missing value and NaN do not."""
        if not self.is_judged:
            return True
        if self.value is None or self.threshold is None:
            return False
        return {
            "at least": self.value >= self.threshold,
            "at most": self.value <= self.threshold,
            "above": self.value > self.threshold,
            "below": self.value < self.threshold,
        }[self.rule]

    def as_json(self) -> dict[str, Any]:
        """Return the check as it stands in reports/gate/<student>.json."""
        return {**asdict(self), "is_judged": self.is_judged, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks look at: parsed reports and the exported folder."""

    student: dict[str, Any]
    baseline: dict[str, Any] | None
    scores: dict[str, dict[str, float]]
    """model -> task -> median score over the seeds, 0 to 100."""
    speed: dict[str, Any]
    export: dict[str, Any]
    expectations: dict[str, Any]
    folder: Path


def judge(settings: params.Params, student: str, evidence: Evidence) -> Iterator[Check]:
    """Yield every check, in the order in which people read them."""
    yield from _retention(settings, student, evidence.scores)
    yield from _size_and_speed(settings, student, evidence.speed)
    yield from _parity(settings, evidence.export)
    yield _data_quality(evidence.expectations)
    yield from _beats_baseline(settings, student, evidence)
    yield _provenance(evidence)
    yield _loads_without_pickle(evidence.folder)


def _retention(
    settings: params.Params, student: str, scores: dict[str, dict[str, float]]
) -> Iterator[Check]:
    ratios = {
        task: scores[student][task] / of_teacher if of_teacher > 0 else None
        for task, of_teacher in scores["teacher"].items()
    }
    known = [ratio for ratio in ratios.values() if ratio is not None]
    yield Check(
        "retention",
        fmean(known) if len(known) == len(ratios) else None,
        "at least",
        settings.gate.min_retention,
        _kept(len(ratios), len(settings.evaluation.seeds)),
    )
    for task, ratio in ratios.items():
        yield Check(
            f"task_retention/{task}",
            ratio,
            "at least",
            settings.gate.min_task_retention,
            f"student / teacher on {task}: {scores[student][task]:.2f} / "
            f"{scores['teacher'][task]:.2f}{'' if ratio is not None else NOTHING_TO_KEEP}",
        )


def _kept(num_tasks: int, num_seeds: int) -> str:
    """Say what a retention is of."""
    each = "of one seed" if num_seeds == 1 else f"the median over {num_seeds} seeds"
    if num_tasks == 1:
        return f"student / teacher on the one task, each {each}"
    return (
        f"mean over {num_tasks} tasks of student / teacher, each {each} "
        "(a mean of ratios, not a ratio of means)"
    )


def _size_and_speed(
    settings: params.Params, student: str, speed: dict[str, Any]
) -> Iterator[Check]:
    ratios = speed["ratios"].get(student)
    batch = str(settings.evaluation.speed.batch_sizes[0])
    if ratios is None or batch not in ratios["speedup"]:
        raise DataError(
            f"reports/speed.json has no speed-up of {student} at batch size {batch}; "
            "run: dvc repro speed"
        )
    yield Check(
        "parameter_fraction",
        ratios["parameter_fraction"],
        "at most",
        settings.gate.max_parameter_fraction,
        "student parameters / teacher parameters",
    )
    yield Check(
        "speedup",
        ratios["speedup"][batch],
        "at least",
        settings.gate.min_speedup,
        f"teacher time / student time at batch size {batch}, interleaved on one machine",
    )


def _parity(settings: params.Params, export: dict[str, Any]) -> Iterator[Check]:
    yield Check(
        "onnx_fp32_difference",
        export["fp32"]["max_logit_difference"],
        "at most",
        settings.export.max_logit_difference,
        "largest difference of a logit between ONNX fp32 and PyTorch on held-out text",
    )
    yield Check(
        "onnx_int8_agreement",
        export["int8"]["agreement"],
        "at least",
        settings.export.min_int8_agreement,
        "share of held-out tokens on which ONNX INT8 has PyTorch's first choice",
    )


def _data_quality(expectations: dict[str, Any]) -> Check:
    failed = [check["name"] for check in expectations["checks"] if not check["passed"]]
    num_failed = max(len(failed), 0 if expectations["passed"] else 1)
    named = f": {', '.join(failed)}" if failed else ""
    return Check("data_quality", num_failed, "at most", 0, f"failed expectations{named}")


def _beats_baseline(settings: params.Params, student: str, evidence: Evidence) -> Iterator[Check]:
    """Compare with the student trained without distillation; there may be none."""
    baseline = settings.evaluation.baseline
    if baseline is None or evidence.baseline is None:
        log.info("%s has no baseline to be compared with (evaluation.baseline)", student)
        return
    asked = settings.gate.must_beat_baseline_on
    yield Check(
        "beats_baseline/heldout_kl",
        evidence.student["heldout"]["kl"],
        "below" if "heldout_kl" in asked else "reported",
        evidence.baseline["heldout"]["kl"],
        f"divergence from the teacher on held-out text, against {baseline}'s",
    )
    yield Check(
        "beats_baseline/task_mean",
        fmean(evidence.scores[student].values()),
        "above" if "task_mean" in asked else "reported",
        fmean(evidence.scores[baseline].values()),
        f"mean over tasks of the median score, against {baseline}'s",
    )


def _provenance(evidence: Evidence) -> Check:
    """Compare the files with the hashes the export took, and the weights with the training's."""
    expected = {name: entry["sha256"] for name, entry in evidence.export["files"].items()}
    expected[WEIGHTS] = evidence.student["model_sha256"]
    found = {name: sha256_of(path) for name, path in _files(evidence.folder).items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    named = f": {', '.join(wrong)}" if wrong else ""
    meaning = f"exported files missing, added, or not the bytes that were made{named}"
    return Check("provenance", len(wrong), "at most", 0, meaning)


def _loads_without_pickle(folder: Path) -> Check:
    unsafe = sorted(
        name
        for name, path in _files(folder).items()
        if path.suffix not in SAFE_SUFFIXES or (path.suffix == ".safetensors" and not _opens(path))
    )
    named = f": {', '.join(unsafe)}" if unsafe else ""
    meaning = f"files that are not whole safetensors, ONNX or text{named}"
    return Check("loads_without_pickle", len(unsafe), "at most", 0, meaning)


def _opens(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return len(tensors.keys()) > 0
    except SafetensorError:
        return False


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; run: dvc repro export")
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
