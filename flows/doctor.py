"""Look at everything a run needs before it needs it; every check is made, then every finding said.

    make doctor      or      python -m flows.doctor

Exit code 0: nothing is wrong (warnings may be). 1: something has to be mended first.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from flows import environment, own_files, server
from flows.findings import MARK, Finding, State
from flows.graph import STRAYS, read_strays
from flows.stores import check_mlflow, check_prefect, check_remote
from flows.ui import PORTS
from stages import params
from stages.command import parser_for, run
from stages.errors import DistilleryError, SettingsError

LOW_DISK_GIB = 5.0
NO_DISK_GIB = 1.0


def main(arguments: argparse.Namespace) -> None:
    """Make every check, then fail if one of them found something wrong."""
    del arguments
    root = environment.project_root()
    num_wrong = 0
    for name, check in CHECKS.items():
        try:
            findings = list(check(root))
        except Exception as error:
            findings = [Finding("wrong", f"the check itself failed: {error!r}")]
        for finding in findings:
            num_wrong += finding.state == "wrong"
            print(f"{MARK[finding.state]} {name:<10} {finding.said}", flush=True)
    if num_wrong:
        raise DistilleryError(f"{num_wrong} of the findings above must be mended first")


def check_python(root: Path) -> Iterator[Finding]:
    """The interpreter, and what is installed against requirements.lock."""
    found = sys.version_info[:2]
    if found != (3, 11):
        yield Finding("wrong", f"Python {found[0]}.{found[1]} runs this; 3.11 is needed")
    wanted = dict(
        line.split("==")
        for line in (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    wrong = []
    for name, version in wanted.items():
        plain = re.split(r"[\s\[;]", name)[0]
        try:
            # A build's local label (+cpu) says how it was compiled, not which version it is.
            installed = metadata.version(plain).partition("+")[0]
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != re.split(r"[\s;]", version)[0]:
            wrong.append(f"{plain} {installed} instead of {version}")
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        # What is newer than the lock is made again only if it must be.
        yield Finding("wrong", f"{shown}. Cure: make -B setup")
    else:
        yield Finding("good", f"{len(wanted)} packages as requirements.lock pins them")


def check_settings(root: Path) -> Iterator[Finding]:
    """params.yaml, and the data it names."""
    try:
        settings = params.load(root / params.PARAMS)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield Finding("wrong", line)
        return
    yield Finding("good", f"params.yaml is valid: profile {settings.profile}")
    for said in own_files.missing(root, settings):
        yield Finding("wrong", said)
    for said in own_files.changed(root, settings).values():
        yield Finding("warning", said)


def check_telemetry(root: Path) -> Iterator[Finding]:
    """Whether every tool keeps its telemetry to itself."""
    del root
    on = [
        name for name in environment.DEFAULTS if os.environ.get(name) != environment.DEFAULTS[name]
    ]
    for name in on:
        yield Finding(
            "warning", f"{name}={os.environ.get(name)}; {environment.DEFAULTS[name]} is safe"
        )
    if not on:
        yield Finding("good", "off for every tool, and nothing is unpickled")


def check_disk(root: Path) -> Iterator[Finding]:
    """Room for shards, checkpoints and the cache."""
    free = shutil.disk_usage(root).free / 2**30
    state: State = "wrong" if free < NO_DISK_GIB else "warning" if free < LOW_DISK_GIB else "good"
    cure = "" if state == "good" else "; docs/operations.md says what makes room"
    yield Finding(state, f"{free:.1f} GiB free{cure}")
    for folder in ("data", "models", "mlruns", ".scratch"):
        if (root / folder).exists() and not os.access(root / folder, os.W_OK):
            yield Finding("wrong", f"{folder}/ cannot be written to")


def check_ports(root: Path) -> Iterator[Finding]:
    """The ports of `make ui`."""
    del root
    if url := server.advertised_url():
        yield Finding("good", f"make ui is up: {url.removesuffix('/api')}")
        return
    for name, port in PORTS.items():
        if server.is_port_free(port):
            yield Finding("good", f"{port} is free for the {name} page")
        else:
            option = f"--{name.lower()}-port"
            yield Finding("warning", f"{port} is taken; python -m flows.ui {option} takes another")


def check_dvc(root: Path) -> Iterator[Finding]:
    """Locks of a killed DVC, a dvc.lock that was cut short, and what earlier settings left."""
    import yaml

    held = root / ".dvc/tmp/rwlock"
    try:
        entries: dict[str, Any] = json.loads(held.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        entries = {}
    except ValueError:
        yield Finding("wrong", f"{held} is damaged; delete it while no DVC is at work")
        entries = {}
    holders = {int(pid) for pid in re.findall(r'"pid": (\d+)', json.dumps(entries))}
    living = sorted(pid for pid in holders if psutil.pid_exists(pid))
    if living:
        yield Finding("warning", f"DVC is at work here (process {', '.join(map(str, living))})")
    elif holders:
        yield Finding("good", "a killed DVC left its locks; the next one takes them away")
    lock = root / "dvc.lock"
    if not lock.is_file():
        yield Finding("good", "nothing has run here yet: there is no dvc.lock")
        return
    try:
        stages = yaml.load(lock.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["stages"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        yield Finding("wrong", f"dvc.lock is damaged ({type(error).__name__}); restore it from git")
        return
    yield Finding("good", f"dvc.lock records {len(stages)} stages")
    if strays := read_strays():
        yield Finding("warning", STRAYS % " ".join(map(str, strays)))


CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "python": check_python,
    "settings": check_settings,
    "telemetry": check_telemetry,
    "disk": check_disk,
    "ports": check_ports,
    "dvc": check_dvc,
    "remote": check_remote,
    "mlflow": check_mlflow,
    "prefect": check_prefect,
}


if __name__ == "__main__":
    run(main, parser_for(__doc__))
