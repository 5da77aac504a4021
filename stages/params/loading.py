"""params.yaml read, checked and switched; every mistake is said at once."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from stages.command import log
from stages.errors import SettingsError
from stages.files import write_text
from stages.params.whole import Params

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
BEFORE = Path("params.yaml.before")
"""Settings of the user's own that a profile has replaced."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, YAML's own reader silently takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if name in found:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{name}' is there twice; put what is under both under one",
                    problem_mark=key.start_mark,
                )
            found.add(name)
        return node


def load(path: Path = PARAMS) -> Params:
    """Read and validate a settings file.

    Raises:
        SettingsError: with one line per mistake, each naming the file, the key, the value and
            what is allowed.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    except FileNotFoundError as error:
        cure = f"{PARAMS} is made with: python -m stages.params use offline"
        if (named := PROFILES / f"{path}.yaml").is_file():
            cure = f"the file of that profile is {named}"
        raise SettingsError(f"{path} does not exist; {cure}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError(f"{path} is not valid YAML: {where}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping of sections, not {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        lines = [line for mistake in mistakes for line in _explain(path, raw, mistake)]
        raise SettingsError("\n".join(lines)) from error


def _explain(path: Path, raw: Any, mistake: Any) -> Iterator[str]:
    """Say one validation mistake in one line; those that concern several keys in one each."""
    keys, value, said = _keys(raw, mistake), mistake["input"], mistake["msg"]
    match mistake["type"]:
        case "missing":
            value, said = {}, "is missing"
        case "union_tag_not_found":
            keys, value, said = [*keys, "kind"], {}, "is missing"
        case "union_tag_invalid":
            tag, known = mistake["ctx"]["tag"], mistake["ctx"]["expected_tags"]
            keys, value, said = [*keys, "kind"], tag, f"must be one of {known}"
        case "dict_type" | "model_type" | "model_attributes_type":
            said = "must be a mapping"
    where = ".".join(keys)
    if not isinstance(value, dict | list | BaseModel):
        where += f" = {'null' if value is None else value}"
    # What concerns several sections names its keys itself.
    where = f"{where}: " if where else ""
    hint = _paper_value(keys)
    for line in said.removeprefix("Value error, ").splitlines():
        message = (line[:1].lower() + line[1:]).replace("input should be", "must be")
        if mistake["type"] == "extra_forbidden":
            beside = _settings_at(keys[:-1])
            allowed = f"; there are: {', '.join(beside.model_fields)}" if beside else ""
            message = f"no such setting{allowed}"
        yield f"{path}: {where}{message}" + (f" (the paper uses {hint})" if hint else "")


def _keys(raw: Any, mistake: Any) -> list[str]:
    """Return the keys of the file that lead to a mistake.

    A union puts the kind it chose into the location as well; the file has no such key.
    """
    keys: list[str] = []
    # pydantic says of a key that it is one; which one comes before that.
    location = [part for part in mistake["loc"] if part != "[key]"]
    if not location:
        return []
    *before, last = location
    for part in before:
        if isinstance(raw, dict) and part not in raw:
            continue
        keys.append(str(part))
        raw = raw[part] if isinstance(raw, dict | list) else None
    is_tag = mistake["type"] != "missing" and isinstance(raw, dict) and last not in raw
    return keys if is_tag and keys else [*keys, str(last)]


def _settings_at(keys: list[str]) -> type[BaseModel] | None:
    """Return the settings that these keys lead to; None where a `kind` chooses among several."""
    found: Any = Params
    for key in keys:
        if get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            field = found.model_fields.get(key) if hasattr(found, "model_fields") else None
            found = field.annotation if field else None
        if get_origin(found) is UnionType:
            kinds = [kind for kind in get_args(found) if kind is not NoneType]
            found = kinds[0] if len(kinds) == 1 else None
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _paper_value(keys: list[str]) -> str | None:
    model = _settings_at(keys[:-1])
    field = model.model_fields.get(keys[-1]) if model and keys else None
    extra = field.json_schema_extra if field else None
    return str(extra["paper"]) if isinstance(extra, dict) and "paper" in extra else None


def profile_names() -> list[str]:
    """Return the names of the profiles that can be switched to."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def use(name: str) -> None:
    """Make params.yaml a copy of a profile, once the profile is known to be valid.

    What stood there is kept beside it, unless it is a profile as well.
    """
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        known = ", ".join(profile_names())
        raise SettingsError(f"there is no profile '{name}'; there are: {known}")
    load(path)
    profiles = [profile.read_bytes() for profile in PROFILES.glob("*.yaml")]
    if PARAMS.is_file() and (mine := PARAMS.read_bytes()) not in profiles:
        log.info("what was in params.yaml is in %s now", _kept(mine))
    write_text(PARAMS, path.read_text(encoding="utf-8"))
    log.info("params.yaml is now profile %s; next: make demo, or dvc repro", name)


def _kept(settings: bytes) -> Path:
    """Write settings beside params.yaml, over no others that are kept there."""
    path, number = BEFORE, 1
    while path.exists() and path.read_bytes() != settings:
        number += 1
        path = Path(f"{BEFORE}-{number}")
    path.write_bytes(settings)
    return path
