"""What the promotion flows ask of the registry, and what they leave on the page."""

import sys
from pathlib import Path
from typing import Any

import pytest
from httpx import ConnectError
from prefect.logging import disable_run_logger

from flows import registry
from flows.promotion import promotion_page, rollback
from stages.errors import DataError, DistilleryError

ANSWER: dict[str, Any] = {
    "action": "promote",
    "model": "student",
    "version": 3,
    "replaced": 2,
    "changed": True,
    "student": "small",
    "run_id": "abc",
    "reason": "it is faster",
    "message": "student version 3 (small) is the champion, in place of version 2",
}


def fake_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let the flows find another interpreter, which answers as the script says."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(registry.sys, "executable", str(program))


def test_the_registry_is_asked_through_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_registry(monkeypatch, tmp_path, "print(json.dumps(sys.argv[1:]))")
    asked = registry.ask(tmp_path, "promote", "--reason", "why not")
    assert asked == ["-m", "stages.registry.promotion", "promote", "--json", "--reason", "why not"]


def test_a_change_is_no_failure_for_want_of_its_page_and_takes_any_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)

    def refuse(**_: str) -> None:
        raise ConnectError("the server went away")

    # To roll back once more for want of it would undo it.
    monkeypatch.setattr("flows.promotion.create_markdown_artifact", refuse)
    script = f"print(json.dumps({ANSWER!r} | {{'message': ' '.join(sys.argv[-2:])}}))"
    fake_registry(monkeypatch, tmp_path, script)
    # As Prefect tells a process which run it is.
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "abc")
    with disable_run_logger():
        state = rollback.fn("- too slow")
    said = "--reason=- too slow --request=abc"
    assert (state.type.value, state.message) == ("COMPLETED", said)


def test_a_refusal_is_told_in_the_registrys_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = r"^version 3 does not pass the gate:\n  speedup: 1.1$"
    said = "12:00:01 opened the store\\n12:00:02 version 3 does not pass the gate:\\n  speedup: 1.1"
    fake_registry(monkeypatch, tmp_path, f"sys.stderr.write('{said}'); sys.exit(1)")
    with pytest.raises(DistilleryError, match=told):
        registry.ask(tmp_path, "promote")


def test_an_answer_that_is_not_json_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_registry(monkeypatch, tmp_path, "print('hello')")
    with pytest.raises(DataError, match="did not answer in JSON: hello"):
        registry.ask(tmp_path, "status")


def test_the_page_says_who_why_and_what_was_before(tmp_path: Path) -> None:
    page = promotion_page(tmp_path, ANSWER, who="ada")
    shown = "[student version 3 (small)](http://127.0.0.1:5000/#/models/student/versions/3)"
    assert f"- Champion: {shown}" in page
    assert "- Champion before: 2" in page
    assert "- Who: ada" in page
    assert "- Why: it is faster" in page
    assert "the reports here are of another version" in page
