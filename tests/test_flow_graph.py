"""DVC's graph as the flow reads it: order, what a target needs, what a change reaches."""

from pathlib import Path

import pytest
from prefect.states import Completed
from toy_project import make_project

from flows.ablations import TARGET
from flows.distillation import _conclusion
from flows.graph import Graph, ordered, read_changed, read_graph, read_strays
from stages.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent

DIAMOND = {
    "end": ["left@a", "left@b"],
    "left@b": ["start"],
    "left@a": ["start"],
    "start": [],
    "aside": [],
}


def place(graph: Graph) -> dict[str, int]:
    return {name: i for i, name in enumerate(graph.names())}


def test_order_follows_the_file_as_far_as_dependencies_allow() -> None:
    assert ordered(DIAMOND).names() == ["start", "left@b", "left@a", "end", "aside"]


def test_a_target_brings_all_it_needs_and_nothing_else() -> None:
    graph = ordered(DIAMOND)
    assert graph.upstream_of(["left@a"]).names() == ["start", "left@a"]
    assert graph.upstream_of(["left"]).names() == ["start", "left@b", "left@a"]


def test_a_change_reaches_all_that_depends_on_it() -> None:
    assert ordered(DIAMOND).downstream_of(["left@a"]) == {"left@a", "end"}
    assert ordered(DIAMOND).downstream_of(["start"]) == {"start", "left@a", "left@b", "end"}


def test_a_change_outside_the_chosen_part_reaches_nothing() -> None:
    assert ordered(DIAMOND).upstream_of(["aside"]).downstream_of(["start"]) == set()


def test_an_unknown_target_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no stage 'middle'; it has: start, left, end, aside"):
        ordered(DIAMOND).upstream_of(["middle"])


def test_the_graph_of_this_project_is_read_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    graph = read_graph()
    position = place(graph)
    assert all(position[up] < position[s.name] for s in graph.stages for up in s.upstream)
    # A parent folder as dependency stands for every stage that writes below it.
    needs = {stage.name: stage.upstream for stage in graph.stages}
    assert "documents@docstrings" in needs["curate"]
    assert {name for name in needs if name.startswith("finetune")} <= set(needs["report"])
    # An ablation is evaluated and leaves no version.
    assert "register@distilbert" not in graph.upstream_of([TARGET]).names()


def test_the_stages_that_want_the_whole_machine_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exclusive = {stage.group for stage in read_graph().stages if stage.is_exclusive}
    assert exclusive == {"teacher", "distill", "speed"}


def test_what_changed_is_what_dvc_says_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(
        tmp_path,
        """
        stages:
          copy:
            cmd: cp seed.txt copy.txt
            deps: [seed.txt]
            outs: [copy.txt]
        """,
    )
    assert list(read_changed()) == ["copy"]
    assert "copy.txt (deleted)" in "; ".join(read_changed()["copy"])
    # A flow whose stages have all ended well has not, where DVC sees work left.
    state = _conclusion(read_graph(), {"copy": Completed()})
    assert state.is_failed()
    assert "yet dvc status is not empty" in (state.message or "")


def test_a_broken_dvc_yaml_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path, "stages: [nonsense")
    with pytest.raises(SettingsError, match=r"DVC cannot read .*dvc\.yaml"):
        read_graph()


def test_what_earlier_settings_left_among_outputs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that was taken out of params.yaml: `ls` reads the folder that it still lies in."""
    monkeypatch.chdir(tmp_path)
    make_project(
        tmp_path,
        """
        stages:
          make:
            foreach: [a, b]
            do:
              cmd: mkdir -p made/${item}
              outs:
              - made/${item}
              - report/${item}.json:
                  cache: false
          ls:
            cmd: ls made report > list.txt
            deps: [made, report]
            outs: [list.txt]
        """,
    )
    assert read_strays() == []
    for path in ("made/a", "made/old", "made/.left.12345678", "report"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("made/.left.12345678/file", "report/old.json"):
        (tmp_path / path).touch()
    assert read_strays() == []
    (tmp_path / "made/old/file").touch()
    assert read_strays() == [Path("made/old")]
