"""What the documentation says can be done: commands, links, settings and messages that exist.

Read from the sources and not run, so that it costs a second: options are those that a module gives
to argparse, messages its texts. `test_pipeline.py` runs docs/your-own.md from start to end.
"""

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from stages.params import Params
from tests.conftest import ROOT
from tests.docs_text import anchors, blocks, code, links, merged

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
HAND = [path for path in PAGES if path.name != "experiments.md"]
"""Pages that say what to do now; experiments.md says what was done then."""
MODULE = re.compile(r"python -m ((?:stages|flows|benchmarks|tests)\.(?!\.)[^#|;]*)")
COMMANDS = [
    (path.name, command) for path in HAND for text in code(path) for command in MODULE.findall(text)
]


def by_name(path: Path) -> str:
    return path.name


def module_file(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def interface(path: Path) -> tuple[dict[str, bool], set[str]]:
    """Return a command's options, each with whether it must be given, and its subcommands."""
    options: dict[str, bool] = {}
    actions: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else called
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called == "parser_for" and len(node.args) == 2 and isinstance(node.args[1], ast.List):
            options |= {f"--{name}": True for name in ast.literal_eval(node.args[1])}
        elif called == "add_argument" and isinstance(first, str) and first.startswith("--"):
            options[first] = "required" in given
        elif called == "add_argument" and isinstance(given.get("choices"), ast.List):
            actions |= set(ast.literal_eval(given["choices"]))
        elif called == "add_parser" and isinstance(first, str):
            actions.add(first)
    return options, actions


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_can_be_given_as_it_is_written(page: str, command: str) -> None:
    name, *words = shlex.split(command.replace("[", "").replace("]", ""))
    name = name.rstrip(".,:")
    path = module_file(name)
    assert path.is_file(), f"{page}: there is no module {name}"
    assert '__name__ == "__main__"' in path.read_text(encoding="utf-8"), f"{name} is no command"
    options, actions = interface(path)
    if not name.startswith(("stages.", "flows.")) or name == "stages.training.torchrun":
        # Parsers of benchmarks are in several modules, and one is torchrun's.
        return
    flags = [word for word in words if word.startswith("--")]
    assert set(flags) <= set(options), f"{page}: {name} knows {sorted(options)}"
    # A command that is only named, or cut short, need not be whole.
    if words and "..." not in words and not actions:
        left = {option for option, required in options.items() if required} - set(flags)
        assert not left, f"{page}: {command.strip()} lacks {sorted(left)}"
    if actions and words and words != ["..."]:
        assert words[0] in actions, f"{page}: {name} can {sorted(actions)}"


def test_every_command_is_documented() -> None:
    known = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for room in ("stages", "flows")
        for path in (ROOT / room).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    # Those of the graph are started by DVC; their stages are documented instead.
    by_dvc = set(re.findall(r"python -m (\S+)", (ROOT / "dvc.yaml").read_text(encoding="utf-8")))
    # `make demo`, `make doctor` and `make ui` are how these are started.
    by_make = set(re.findall(r"python -m (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    named = {command.split()[0].rstrip(".,:") for _, command in COMMANDS}
    assert known - named - by_dvc - by_make == set()


def test_every_profile_and_section_is_documented() -> None:
    named = set(code(ROOT / "docs" / "settings.md"))
    assert {path.stem for path in (ROOT / "profiles").glob("*.yaml")} - named == set()
    assert set(Params.model_fields) - named - {"profile", "seed"} == set()


def test_every_stage_is_documented() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    words = {word for path in HAND for text in code(path) for word in text.split()}
    assert set(graph["stages"]) - {word.partition("@")[0] for word in words} == set()


@pytest.mark.parametrize("path", HAND, ids=by_name)
def test_every_make_target_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    lines = [line for text in code(path) for line in text.splitlines()]
    named = {found[1] for line in lines if (found := re.match(r"\s*(?:\$ )?make ([a-z-]+)", line))}
    assert named <= targets


@pytest.mark.parametrize("path", [*PAGES, *DECISIONS], ids=by_name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in links(path):
        file, _, anchor = target.partition("#")
        page = path if not file else (path.parent / file).resolve()
        assert page.exists(), f"{path.name} links to {file}"
        if anchor:
            assert anchor in anchors(page), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", HAND, ids=by_name)
def test_every_file_of_the_project_that_is_named_exists(path: Path) -> None:
    kept = ("docs/", "stages/", "flows/", "tests/", "profiles/", "launch/", "benchmarks/")
    for text in code(path):
        if text.startswith(kept) and re.fullmatch(r"[\w./-]+\.[a-z]+", text):
            assert (ROOT / text).exists(), f"{path.name} names {text}"


def leads_somewhere(model: Any, keys: list[str]) -> bool:
    """Say whether dotted keys lead to a setting; names that are the user's lead on."""
    if not keys:
        return True
    if get_origin(model) in (Union, UnionType, Annotated):
        return any(leads_somewhere(part, keys) for part in get_args(model))
    if get_origin(model) is dict:
        return leads_somewhere(get_args(model)[1], keys[1:])
    if get_origin(model) is list:
        return leads_somewhere(get_args(model)[0], keys)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return False
    field = model.model_fields.get(keys[0])
    return field is not None and leads_somewhere(field.annotation, keys[1:])


@pytest.mark.parametrize("path", HAND, ids=by_name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    sections = "|".join(Params.model_fields)
    for text in code(path):
        found = re.fullmatch(rf"((?:{sections})(?:\.[\w*]+)+)(?:: .*| = .*)?", text)
        if found and not found[1].endswith(
            (".md", ".py", ".json", ".yaml", ".html", ".csv", ".svg")
        ):
            keys = found[1].removesuffix(".*").split(".")
            assert leads_somewhere(Params, keys), f"{path.name} names {text}"


@pytest.mark.parametrize("path", HAND, ids=by_name)
def test_settings_in_examples_are_valid(path: Path) -> None:
    """Each YAML example of whole sections, laid over the offline profile."""
    offline = yaml.safe_load((ROOT / "profiles" / "offline.yaml").read_text(encoding="utf-8"))
    for text in blocks(path, "yaml"):
        example = yaml.safe_load(text)
        if set(example) <= set(Params.model_fields):
            Params.model_validate(merged(offline, example))


ANYTHING = ".*?"
SHORTEST = 10
"""Letters of a text below which it says nothing of its own."""


def messages() -> list[re.Pattern[str]]:
    """Return every text of the code as a pattern; where it is filled in, anything may stand."""
    patterns = set()
    for room in ("stages", "flows"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.BinOp | ast.JoinedStr | ast.Constant):
                    patterns.add(_pattern(node))
    said = [text for text in patterns if len(re.findall("[a-z]", text)) >= SHORTEST]
    return [re.compile(text, re.DOTALL) for text in said]


def _pattern(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A message for `log` is filled in later.
        return re.sub(r"%(?:\.\d)?[sdrfg]", ANYTHING, re.escape(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_pattern, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _pattern(node.left) + _pattern(node.right)
    return ANYTHING


def test_every_message_in_troubleshooting_is_said_by_the_code() -> None:
    """Whole, or after the place that it is said of: `params.yaml: seed = -1: ...`."""
    said = messages()
    quoted = "".join(blocks(ROOT / "docs" / "troubleshooting.md", "text")).splitlines()
    assert len(quoted) > 20
    unsaid = []
    for line in quoted:
        ends = [line, *(line[found.end() :] for found in re.finditer(": ", line))]
        # The first line of several ends where the next begins.
        ends += [f"{end}\n" for end in ends]
        if not any(pattern.fullmatch(end) for pattern in said for end in ends):
            unsaid.append(line)
    assert unsaid == []


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {target.partition("#")[0] for target in links(index)}
    assert {path.name for path in PAGES if path.parent.name == "docs"} - {"README.md"} <= named
