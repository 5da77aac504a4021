"""params.yaml read, checked and switched; every mistake is said at once."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stages.command import log
from stages.errors import SettingsError
from stages.files import write_text
from stages.params.whole import Params

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")


def load(path: Path = PARAMS) -> Params:
    """Read and validate a settings file.

    Raises:
        SettingsError: with one line per mistake, each naming the file, the key, the value and
            what is allowed.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} does not exist; make one with: python -m stages.params use offline"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping of sections, not {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(path, raw, mistake) for mistake in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from error


def _explain(path: Path, raw: Any, mistake: Any) -> str:
    """Say one validation mistake in one line."""
    keys = _keys(raw, mistake)
    where = ".".join(keys)
    message = mistake["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if mistake["type"] == "extra_forbidden":
        message = "no such setting"
    elif mistake["type"] == "missing":
        return f"{path}: {where}: is missing"
    else:
        message = message.replace("input should be", "must be")
    value = mistake["input"]
    shown = f" = {value}" if not isinstance(value, dict | list | BaseModel) else ""
    hint = _paper_value(keys)
    # What concerns several sections names its keys itself.
    where = f"{where}{shown}: " if where else ""
    return f"{path}: {where}{message}" + (f" (the paper uses {hint})" if hint else "")


def _keys(raw: Any, mistake: Any) -> list[str]:
    """Return the keys of the file that lead to a mistake.

    A union puts the kind it chose into the location as well; the file has no such key.
    """
    keys: list[str] = []
    if not mistake["loc"]:
        return []
    *before, last = mistake["loc"]
    for part in before:
        if isinstance(raw, dict) and part not in raw:
            continue
        keys.append(str(part))
        raw = raw[part] if isinstance(raw, dict | list) else None
    is_tag = mistake["type"] != "missing" and isinstance(raw, dict) and last not in raw
    return keys if is_tag and keys else [*keys, str(last)]


def _paper_value(keys: list[str]) -> str | None:
    model: Any = Params
    for key in keys[:-1]:
        field = model.model_fields.get(key) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    field = model.model_fields.get(keys[-1]) if hasattr(model, "model_fields") and keys else None
    extra = field.json_schema_extra if field else None
    return str(extra["paper"]) if isinstance(extra, dict) and "paper" in extra else None


def profile_names() -> list[str]:
    """Return the names of the profiles that can be switched to."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def use(name: str) -> None:
    """Make params.yaml a copy of a profile, once the profile is known to be valid."""
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        known = ", ".join(profile_names())
        raise SettingsError(f"there is no profile '{name}'; there are: {known}")
    load(path)
    write_text(PARAMS, path.read_text(encoding="utf-8"))
    log.info("params.yaml is now profile %s; next: make demo, or dvc repro", name)
