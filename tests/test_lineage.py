"""Lineage: which entries of dvc.lock decide a student, and which do not."""

import copy
import subprocess

import pytest
import yaml
from registry_world import SHARDS_MD5, dvc_lock, md5

from stages import lineage
from stages.errors import DataError
from stages.lineage import git_state, lineage_of, trace


def traced(change=None, student="distilbert"):
    stages = dvc_lock()["stages"]
    if change is not None:
        change(stages)
    return trace(stages, student)


def test_upstream_is_found_through_parent_folders_and_files_of_outputs():
    assert traced().stages == (
        "curate",
        "distill@distilbert",
        "documents@docstrings",
        "expectations",
        "fetch_teacher",
        "shards",
        "teacher",
    )


def test_corpus_digest_is_the_hash_of_the_shards_and_fits_mlflow():
    digest = traced().corpus_digest
    assert digest == SHARDS_MD5
    assert len(digest) == 36


def test_params_are_those_the_upstream_stages_took():
    params = traced().params
    assert params["corpus.shards"] == {"sequence_length": 128}
    assert "students.distilbert" in params
    assert "students.mlm_only" not in params


def deps_of(stage, path, value):
    def change(stages):
        (item,) = [i for i in stages[stage]["deps"] if i["path"] == path]
        item["md5"] = value

    return change


def outs_of(stage, path, value):
    def change(stages):
        (item,) = [i for i in stages[stage]["outs"] if i["path"] == path]
        item["md5"] = value

    return change


def set_param(stages):
    stages["shards"]["params"]["params.yaml"]["corpus.shards"]["sequence_length"] = 64


def set_cmd(stages):
    stages["documents@docstrings"]["cmd"] += " --workers 2"


@pytest.mark.parametrize(
    "change",
    [
        set_param,
        set_cmd,
        deps_of("distill@distilbert", "stages/training", md5("0", True)),
        deps_of("documents@docstrings", "requirements.lock", md5("0")),
        outs_of("teacher", "models/teacher", md5("0", True)),
        outs_of("distill@distilbert", "models/students/distilbert", md5("0", True)),
    ],
    ids=["parameter", "command", "code", "requirements", "teacher", "student"],
)
def test_lineage_changes_with_what_decides_the_student(change):
    assert traced(change).lineage != traced().lineage


@pytest.mark.parametrize(
    "change",
    [
        # Measured seconds and losses.
        outs_of("distill@distilbert", "reports/students/distilbert.json", md5("1")),
        outs_of("teacher", "reports/teacher.json", md5("1")),
        deps_of("distill@distilbert", "reports/expectations.json", md5("1")),
        # Other students and what comes later.
        outs_of("distill@mlm_only", "models/students/mlm_only", md5("1", True)),
        outs_of("export@distilbert", "models/export/distilbert", md5("1", True)),
        outs_of("tasks@package", "data/tasks/package", md5("1", True)),
        lambda stages: stages.update(reversed(list(stages.items()))),
    ],
    ids=["report", "teacher_report", "report_dep", "other_student", "export", "task", "order"],
)
def test_lineage_keeps_through_what_does_not(change):
    assert traced(change).lineage == traced().lineage


def test_a_source_of_earlier_settings_is_no_part_of_it():
    """DVC keeps the entry of a stage that was removed, and hashes the folder with its output."""

    def only(stages):
        stages["curate"]["params"]["params.yaml"]["corpus.sources"] = {"docstrings": {}}

    def after_another(stages):
        only(stages)
        deps_of("curate", "data/documents", md5("1", True))(stages)
        stages["documents@novels"] = copy.deepcopy(stages["documents@docstrings"]) | {
            "params": {"params.yaml": {"corpus.sources.novels": {"kind": "books"}}},
            "outs": [{"path": "data/documents/novels", "md5": md5("1", True)}],
        }

    assert traced(after_another) == traced(only)
    assert "documents@docstrings" in traced(only).stages


def test_students_have_lineages_of_their_own():
    assert traced().lineage != traced(student="mlm_only").lineage
    assert len(traced().lineage) == 16


def test_lineage_of_a_successor_leads_through_the_student_before_it():
    def follow(stages):
        entry = copy.deepcopy(stages["distill@mlm_only"])
        entry["deps"].append({"path": "models/students/distilbert", "md5": md5("8", True)})
        entry["outs"][0]["path"] = "models/students/next"
        stages["distill_successor@next"] = entry

    found = traced(follow, student="next")
    assert {"distill@distilbert", "distill_successor@next"} <= set(found.stages)
    assert "distill@mlm_only" not in found.stages

    def other_teacher(stages):
        follow(stages)
        outs_of("distill@distilbert", "models/students/distilbert", md5("0", True))(stages)

    assert traced(other_teacher, student="next").lineage != found.lineage


def test_unknown_student_says_what_to_run():
    with pytest.raises(DataError, match=r"no entry distill@nobody; run: dvc repro distill@nobody"):
        traced(student="nobody")


def test_missing_upstream_stage_is_an_error_not_another_lineage():
    with pytest.raises(DataError, match=r"data/curated, which no recorded stage makes"):
        traced(lambda stages: stages.pop("curate"))


def test_half_written_hash_is_an_error_not_another_lineage():
    with pytest.raises(DataError, match="has no whole md5"):
        traced(outs_of("teacher", "models/teacher", "77777"))


def test_lock_that_is_being_rewritten_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "dvc.lock"
    whole = yaml.safe_dump(dvc_lock(), sort_keys=False)
    path.write_text(whole[: len(whole) // 2])
    monkeypatch.setattr(lineage.time, "sleep", lambda _: path.write_text(whole))
    assert lineage_of("distilbert", path) == traced()


def test_every_cut_of_the_lock_is_noticed():
    expected = traced().lineage
    whole = yaml.safe_dump(dvc_lock(), sort_keys=False)
    seen = set()
    for end in range(0, len(whole), 97):
        try:
            stages = (yaml.load(whole[:end], Loader=yaml.CSafeLoader) or {}).get("stages")
            seen.add(trace(stages or {}, "distilbert").lineage)
        except (yaml.YAMLError, DataError, AttributeError):
            continue
    assert seen <= {expected}


def test_absent_lock_is_an_error_at_once(tmp_path):
    with pytest.raises(DataError, match=r"dvc.lock does not exist; run dvc repro first"):
        lineage_of("distilbert", tmp_path / "dvc.lock")


def git(root, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_git_state_sees_changes_of_tracked_files_only(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "untracked.txt").write_text("1")
    clean = git_state(tmp_path)
    assert clean.commit is not None
    assert not clean.is_dirty
    (tmp_path / "a.txt").write_text("2")
    assert git_state(tmp_path).is_dirty


def test_git_state_without_git_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path).commit is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path).commit is None
