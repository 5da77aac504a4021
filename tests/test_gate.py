"""The gate: each check fails alone and is named; all others still report."""

import argparse
import json
import math
import pickle

import pytest
import yaml
from registry_world import STUDENT, settings, write_export_report, write_world

from stages.errors import DataError, SettingsError
from stages.files import read_json
from stages.registry import gate
from stages.registry.checks import Check

ALL_CHECKS = [
    "retention",
    "task_retention/acceptability",
    "task_retention/package",
    "parameter_fraction",
    "speedup",
    "onnx_fp32_difference",
    "onnx_int8_agreement",
    "data_quality",
    "beats_baseline/heldout_kl",
    "beats_baseline/task_mean",
    "provenance",
    "loads_without_pickle",
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_gate(world, student=STUDENT):
    out = world / "reports" / "gate" / f"{student}.json"
    export = world / "models" / "export" / STUDENT
    gate.main(
        argparse.Namespace(student=student, reports=world / "reports", export=export, out=out)
    )
    return read_json(out)


def edit(path, *keys, value):
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def edit_settings(world, section, **values):
    content = settings()
    content[section] |= values
    (world / "params.yaml").write_text(yaml.safe_dump(content))


def by_name(report):
    return {check["name"]: check for check in report["checks"]}


def test_good_student_passes_every_check(world):
    report = run_gate(world)
    assert report["passed"]
    assert [check["name"] for check in report["checks"]] == ALL_CHECKS
    checks = by_name(report)
    # (76 / 80 + 84 / 80) / 2
    assert checks["retention"]["value"] == pytest.approx(1.0)
    assert "mean over 2 tasks" in checks["retention"]["meaning"]
    # evaluation.speed.batch_sizes is [16, 32]: the first is 16.
    assert checks["speedup"]["value"] == 1.9
    assert checks["onnx_fp32_difference"]["threshold"] == 1e-3


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
def test_a_retention_of_one_task_is_no_mean(world, seeds):
    edit_settings(world, "evaluation", seeds=seeds, tasks=["package"])
    meaning = by_name(run_gate(world))["retention"]["meaning"]
    assert meaning.startswith("student / teacher on the one task, each ")
    assert meaning.endswith("of one seed" if len(seeds) == 1 else "the median over 3 seeds")


def task(world, model, name, value):
    edit(world / f"reports/finetune/{model}/{name}.json", "score", "median", value=value)


def low_on_one_task(world):
    task(world, STUDENT, "acceptability", 55.0)
    task(world, STUDENT, "package", 95.0)


def low_on_all_tasks(world):
    task(world, STUDENT, "acceptability", 71.0)
    task(world, STUDENT, "package", 71.5)
    task(world, "mlm_only", "acceptability", 0.0)


def ratio(*keys, value):
    return lambda world: edit(world / "reports/speed.json", "ratios", STUDENT, *keys, value=value)


def export(*keys, value):
    return lambda world: edit(world / f"reports/export/{STUDENT}.json", *keys, value=value)


def failed_expectation(world):
    edit(world / "reports/expectations.json", "passed", value=False)


def baseline_kl(value):
    return lambda world: edit(
        world / "reports/students/mlm_only.json", "heldout", "kl", value=value
    )


def strong_baseline(world):
    # The same mean as the student's, 80: to equal the baseline is not to beat it.
    task(world, "mlm_only", "acceptability", 80.0)
    task(world, "mlm_only", "package", 80.0)


def changed_file(world):
    (world / f"models/export/{STUDENT}/config.json").write_text("{ }")


def other_weights(world):
    edit(world / f"reports/students/{STUDENT}.json", "model_sha256", value="0" * 64)


def added_file(world):
    (world / f"models/export/{STUDENT}/notes.txt").write_text("hello")


def pickled_weights(world):
    path = world / f"models/export/{STUDENT}/pytorch_model.bin"
    path.write_bytes(pickle.dumps({"weight": 1}))
    write_export_report(world)


def torn_safetensors(world):
    path = world / f"models/export/{STUDENT}/model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    write_export_report(world)


def pickle_under_a_safe_name(world):
    path = world / f"models/export/{STUDENT}/model.safetensors"
    path.write_bytes(pickle.dumps({"weight": 1}))
    write_export_report(world)


@pytest.mark.parametrize(
    ("spoil", "failing"),
    [
        (low_on_all_tasks, "retention"),
        (low_on_one_task, "task_retention/acceptability"),
        (ratio("parameter_fraction", value=0.81), "parameter_fraction"),
        (ratio("speedup", "16", value=1.19), "speedup"),
        (export("fp32", "max_logit_difference", value=2e-3), "onnx_fp32_difference"),
        (export("int8", "agreement", value=0.89), "onnx_int8_agreement"),
        (failed_expectation, "data_quality"),
        (baseline_kl(1.5), "beats_baseline/heldout_kl"),
        (strong_baseline, "beats_baseline/task_mean"),
        (changed_file, "provenance"),
        (added_file, "provenance"),
        (other_weights, "provenance"),
        (pickled_weights, "loads_without_pickle"),
        (torn_safetensors, "loads_without_pickle"),
        (pickle_under_a_safe_name, "loads_without_pickle"),
    ],
)
def test_each_check_fails_alone_and_the_others_still_report(world, spoil, failing):
    spoil(world)
    report = run_gate(world)
    assert not report["passed"]
    assert [check["name"] for check in report["checks"]] == ALL_CHECKS
    assert [check["name"] for check in report["checks"] if not check["passed"]] == [failing]


def test_failures_name_the_file(world):
    changed_file(world)
    assert "config.json" in by_name(run_gate(world))["provenance"]["meaning"]


def test_several_failures_are_all_reported(world):
    ratio("parameter_fraction", value=0.99)(world)
    failed_expectation(world)
    failed = [check["name"] for check in run_gate(world)["checks"] if not check["passed"]]
    assert failed == ["parameter_fraction", "data_quality"]


def test_a_teacher_without_a_score_leaves_no_retention(world):
    task(world, "teacher", "package", 0.0)
    checks = by_name(run_gate(world))
    assert checks["retention"]["value"] is None
    assert not checks["retention"]["passed"]
    assert not checks["task_retention/package"]["passed"]
    assert checks["task_retention/acceptability"]["passed"]


def test_baseline_can_be_reported_only(world):
    edit_settings(world, "gate", must_beat_baseline_on=["task_mean"])
    baseline_kl(0.1)(world)
    check = by_name(run_gate(world))["beats_baseline/heldout_kl"]
    assert check["passed"]
    assert (check["rule"], check["is_judged"]) == ("reported", False)
    assert check["value"] == 1.5


def test_without_a_baseline_there_is_nothing_to_beat(world):
    content = settings()
    content["gate"]["must_beat_baseline_on"] = []
    content["evaluation"]["baseline"] = None
    (world / "params.yaml").write_text(yaml.safe_dump(content))
    assert not any(name.startswith("beats") for name in by_name(run_gate(world)))


def test_missing_report_is_an_error_not_a_failed_check(world):
    (world / "reports/finetune/teacher/package.json").unlink()
    with pytest.raises(DataError, match=r"teacher/package.json does not exist"):
        run_gate(world)


def test_missing_batch_size_says_what_to_run(world):
    edit(world / "reports/speed.json", "ratios", STUDENT, "speedup", value={"1": 2.0})
    with pytest.raises(DataError, match=r"at batch size 16; run: dvc repro speed"):
        run_gate(world)


def test_unknown_student_is_a_settings_error(world):
    with pytest.raises(SettingsError, match=r"not one of export.students: distilbert"):
        run_gate(world, "mlm_only")


@pytest.mark.parametrize(
    ("rule", "value", "passed"),
    [
        ("at least", 1.0, True),
        ("at most", 1.0, True),
        ("above", 1.0, False),
        ("below", 1.0, False),
        ("at least", math.nan, False),
        ("at most", math.nan, False),
        ("at least", None, False),
        ("reported", None, True),
    ],
)
def test_bounds_are_inclusive_unless_they_say_so_and_nan_never_passes(rule, value, passed):
    assert Check("x", value, rule, 1.0, "meaning").passed is passed


def test_table_shows_every_verdict():
    lines = list(
        gate.table(
            [
                Check("x", 2.0, "at least", 1.0, ""),
                Check("y", None, "at most", 1.0, ""),
                Check("z", 2.0, "reported", 3.0, ""),
            ]
        )
    )
    assert lines[0].startswith("pass  x")
    assert lines[1].startswith("FAIL  y")
    assert lines[2].startswith("-     z")


def test_gate_needs_no_mlflow():
    import subprocess
    import sys

    code = "import sys, stages.registry.gate; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
