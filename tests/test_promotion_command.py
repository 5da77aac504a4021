"""`python -m stages.registry.promotion`: its answers in JSON, approval, requests and refusals."""

import json
import subprocess
import sys

import pytest
import yaml
from registry_world import MODEL, ROOT, STUDENT, settings
from tiny_pipeline import environment

from stages.errors import GateError
from stages.registry import promotion
from stages.registry.transitions import promote
from stages.registry.versions import aliases, champion
from stages.tracking.store import CHAMPION


def answer(capsys, *arguments):
    """Run a command in this process and return what it says on standard output."""
    capsys.readouterr()
    promotion.main(promotion.command_line().parse_args([*arguments, "--json"]))
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_every_command_answers_in_json(two_versions, capsys, caplog):
    caplog.set_level("INFO", "distillery")
    answer(capsys, "status")
    # The first has no alias any more, and can be promoted by its number all the same.
    assert [record.message.split()[:3] for record in caplog.records] == [
        ["challenger", "version", "2"],
        ["-", "version", "1"],
    ]
    promoted = answer(capsys, "promote", "--version", "1", "--reason", "why not")
    assert promoted["message"] == f"{MODEL} version 1 ({STUDENT}) is the champion, the first one"
    assert answer(capsys, "promote", "--dry-run")["changed"] is False
    assert answer(capsys, "promote")["replaced"] == 1
    assert answer(capsys, "rollback")["version"] == 1
    shown = answer(capsys, "status")
    assert {alias: entry["version"] for alias, entry in shown.items()} == {
        "champion": 1,
        "previous": 2,
        "challenger": 2,
    }
    assert [entry["reason"] for entry in answer(capsys, "history")] == ["why not", "", ""]


@pytest.mark.slow
def test_where_approval_is_asked_for_nothing_is_promoted_without_it(two_versions, world, capsys):
    values = settings()
    values["registry"]["approval"] = True
    (world / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        GateError, match=r"nobody has approved distilbert-student version 2.*approve --version 2"
    ):
        answer(capsys, "promote")
    assert CHAMPION not in aliases(two_versions, MODEL)
    approved = answer(capsys, "approve", "--reason", "lu et approuv\u00e9 " * 1000)
    # Postgres takes 5000 characters of a tag.
    assert len(approved["approved_by"]) < 1200
    approved = answer(capsys, "approve", "--reason", "read the report")
    assert (approved["version"], "read the report" in approved["approved_by"]) == (2, True)
    # Somebody else, on MLflow's page.
    two_versions.client.set_model_version_tag(MODEL, "1", "approved_by", "ada")
    assert answer(capsys, "promote", "--reason", "\u4e2d" * 2000)["changed"]
    texts = two_versions.client.get_registered_model(MODEL).tags.values()
    assert all(len(text) < 5000 for text in texts)
    assert answer(capsys, "promote", "--version", "1")["changed"]
    assert [entry["gate"]["approved_by"] for entry in answer(capsys, "history")] == [
        approved["approved_by"],
        "ada",
    ]


@pytest.mark.slow
def test_status_before_anything_is_registered_is_empty(store, capsys):
    assert answer(capsys, "status") == {}
    assert answer(capsys, "history") == []
    assert champion(store, MODEL) is None


@pytest.mark.slow
def test_command_that_cannot_be_done_exits_1_without_a_traceback(two_versions, world):
    done = subprocess.run(
        [sys.executable, "-m", "stages.registry.promotion", "rollback"],
        cwd=world, env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has no previous champion" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_command_is_a_usage_error():
    with pytest.raises(SystemExit, match="2"):
        promotion.command_line().parse_args(["nonsense"])


@pytest.mark.slow
def test_request_that_is_made_twice_is_done_once(two_versions, capsys):
    promote(two_versions, MODEL, 1)
    promote(two_versions, MODEL, 2)
    first = answer(capsys, "rollback", "--request", "run-1")
    again = answer(capsys, "rollback", "--request", "run-1")
    assert (first["version"], first["changed"]) == (1, True)
    assert (again["version"], again["replaced"], again["changed"]) == (1, 2, False)
    assert "by this request already" in again["message"]
    assert answer(capsys, "rollback", "--request", "run-2")["version"] == 2
    assert not answer(capsys, "promote", "--version", "1", "--request", "run-2")["changed"]
