"""The rules of the house, read from the imports: who may use what."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from stages.corpus.one_shard import MODULES

ROOT = Path(__file__).resolve().parent.parent
# A room may import itself and those before it; GROUND is what they all stand on.
GROUND = {"params", "errors", "files", "command", "lineage"}
ROOMS = [
    "corpus",
    "objectives",
    "students",
    "training",
    "teacher",
    "tracking",
    "distillation",
    "plan",
    "evaluation",
    "export",
    "speed",
    "report",
    "registry",
]
# What a machine that only trains has installed; triton comes with PyTorch for GPUs.
TRAINING_MAY_USE = {"torch", "triton", "transformers", "pyarrow", "numpy", "safetensors", "tqdm"}
HEAVY = {"torch", "transformers", "datasets", "mlflow", "great_expectations", "sklearn", "pandas"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the full names that a module imports, wherever it does, except for type checking."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "this house imports by full name"
        # `from stages import params` names a module, `from stages.params import load` does not.
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def top_level(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_of(path)}


def room(name: str) -> str:
    """Return the room of a dotted name below stages."""
    return name.split(".")[1]


def users(package: str, wanted: set[str]) -> list[str]:
    """Return the modules of a package that import any of the wanted ones."""
    return [name_of(path) for path in modules(package) if top_level(path) & wanted]


def test_flows_compute_nothing() -> None:
    assert users("flows", HEAVY) == []


def test_stages_know_nothing_of_flows() -> None:
    assert users("stages", {"prefect", "flows"}) == []


def test_a_room_uses_only_the_rooms_before_it() -> None:
    found = {}
    for path in modules("stages"):
        name = name_of(path)
        if name == "stages":
            continue
        before = [] if room(name) in GROUND else ROOMS[: ROOMS.index(room(name)) + 1]
        used = {room(i) for i in imports_of(path) if i.startswith("stages.")}
        found[name] = used - GROUND - set(before)
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


def reached_from(begin: list[Path]) -> tuple[set[Path], dict[str, set[str]]]:
    """Return the stage modules that some import, and what they use of others, with the users."""
    known = {name_of(path): path for path in modules("stages")}
    pending = list(begin)
    reached: set[Path] = set()
    outside: dict[str, set[str]] = {}
    while pending:
        path = pending.pop()
        if path in reached:
            continue
        reached.add(path)
        for name in imports_of(path):
            if name.startswith("stages."):
                # Importing stages.a.b also runs stages/__init__ and stages/a/__init__.
                parts = name.split(".")
                prefixes = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
                pending += [known[prefix] for prefix in prefixes if prefix in known]
            elif (top := name.partition(".")[0]) not in sys.stdlib_module_names:
                outside.setdefault(top, set()).add(name_of(path))
    return reached, outside


def test_training_runs_where_only_training_is_installed() -> None:
    _, outside = reached_from(modules("stages/training"))
    assert not {top: users for top, users in outside.items() if top not in TRAINING_MAY_USE}


# What all stand on would make everything stale, and curves in MLflow decide nothing.
DECIDE_NOTHING = {*GROUND, "tracking"}


# The settings say which of these modules it imports.
OPENED_BY_NAME = {"documents": "stages/corpus/sources"}
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_runs_again_when_a_module_of_it_changes_and_for_no_other(stage: str) -> None:
    entry = GRAPH[stage].get("do", GRAPH[stage])
    (command,) = re.findall(r"python -m stages\.(\S+)", entry["cmd"])
    code = [path for path in entry.get("deps", ()) if path.startswith("stages/")]
    begin = [ROOT / f"stages/{command.replace('.', '/')}.py"]
    reached, _ = reached_from(begin + modules(OPENED_BY_NAME.get(stage, "none")))
    assert not [
        name_of(path)
        for path in sorted(reached)
        if path.name != "__init__.py" and room(name_of(path)) not in DECIDE_NOTHING
        if not any(ROOT / dep == path or ROOT / dep in path.parents for dep in code)
    ]
    assert not [dep for dep in code if not any(path.is_relative_to(ROOT / dep) for path in reached)]


def test_a_shard_names_every_module_of_the_corpus_that_makes_it() -> None:
    reached, _ = reached_from([ROOT / "stages/corpus/one_shard.py"])
    made_by = {path.stem for path in reached if path.parent.name == "corpus"}
    assert made_by - {"__init__"} == set(MODULES)


COMMANDS = [
    path
    for package in ("stages", "flows", "benchmarks", "tests")
    for path in modules(package)
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8").splitlines()
    and not path.name.startswith("test_")
]


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_help_is_the_docstring_as_it_is_written_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(text), clean=False)
    assert doc is not None
    # A backslash at a line's end would join two lines.
    assert doc == text.removeprefix("r").split('"""')[1]
    assert f"python -m {name_of(path).removesuffix('.__main__')}" in doc
    assert "ArgumentParser(" not in text
