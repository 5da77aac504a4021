"""Whether what a run writes to can be reached: DVC remote, MLflow store and Prefect server.

Each is asked as a run would ask it, with its login; a server that strangers can reach is asked
without one as well. No password is shown.
"""

import base64
import json
import os
import queue
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

from flows import server
from flows.findings import Finding
from stages.command import without_secret
from stages.tracking.store import local_database

ANSWER_SECONDS = 10.0
REMOTE_SECONDS = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECRETS = ("password", "secret_access_key", "session_token", "sas_token", "account_key")
"""Options of a DVC remote that must not be in a file of git's."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is asked over HTTP."""

    name: str
    address: str
    question: tuple[str, dict[str, Any]]
    """Path and body of a request that only who is logged in gets an answer to."""
    login: str | None
    """user:password; None where there is none."""
    variables: str
    """Where the login comes from, for who has to mend it."""

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return without_secret(self.address)


def check_remote(root: Path) -> Iterator[Finding]:
    """The DVC remote: that it answers this login, and that git keeps no secret of it."""
    if not (root / ".dvc/config").is_file():
        yield Finding("good", "this is no DVC workspace yet")
        return
    from dvc.repo import Repo

    with Repo(str(root)) as repository:
        name = repository.config["core"].get("remote")
        if name is None:
            yield Finding("good", "there is none: data and models are in this machine's cache only")
            return
        kept = repository.config.read("repo").get("remote", {})
        for remote, options in kept.items():
            for option in sorted(set(options) & set(SECRETS)):
                yield Finding(
                    "wrong",
                    f".dvc/config, which git keeps, holds {option} of remote {remote}; change the "
                    f"secret, then: dvc remote modify --unset {remote} {option}",
                )
        # What a cloud's library does about a host that is silent may take it many minutes.
        answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
        ask = threading.Thread(target=lambda: answers.put(_ask_remote(repository)), daemon=True)
        ask.start()
        try:
            yield answers.get(timeout=REMOTE_SECONDS)
        except queue.Empty:
            yield Finding("wrong", f"{name} does not answer within {REMOTE_SECONDS:.0f} s")


def check_mlflow(root: Path) -> Iterator[Finding]:
    """The MLflow store: that it can be read, that its files are there, that no change hangs."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        yield from _check_server(
            Server(
                "MLflow",
                uri.rstrip("/"),
                ("/api/2.0/mlflow/experiments/search", {"max_results": 1}),
                f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}" if user else None,
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        )
        return
    database = local_database(root)
    if database is None:
        yield Finding("good", f"{without_secret(uri)} is no local store: see the tools of its own")
        return
    shown = database.relative_to(root) if database.is_relative_to(root) else database
    if not database.is_file():
        yield Finding("good", f"{shown} does not exist yet; the first run makes it")
        return
    try:
        places, num_hanging = _read_store(database)
    except sqlite3.DatabaseError as error:
        yield Finding("wrong", f"{shown} cannot be read ({error}); restore a backup")
        return
    lost = [missing for place in places if place and (missing := _missing(place))]
    if lost:
        yield Finding(
            "wrong",
            f"{len(lost)} registered versions have lost their files, such as {lost[0]}. Was the "
            "project moved? python -m stages.registry.backup saves it there and restores it here. "
            "Were they deleted? docs/operations.md, bad days",
        )
    if num_hanging:
        yield Finding("warning", f"{num_hanging} promotions were cut off; the next settles them")
    if not lost:
        yield Finding("good", f"{shown} is whole, {len(places)} registered versions")


def check_prefect(root: Path) -> Iterator[Finding]:
    """The server flows will use, and schedules that should have fired and have not."""
    del root
    api_url = os.environ.get("PREFECT_API_URL") or server.advertised_url()
    if not api_url:
        yield Finding("good", "no server is configured: a flow starts its own on loopback")
        return
    prefect = Server(
        "Prefect",
        api_url,
        ("/deployments/filter", {}),
        os.environ.get("PREFECT_API_AUTH_STRING"),
        "PREFECT_API_AUTH_STRING",
    )
    found = list(_check_server(prefect))
    yield from found
    if found[0].state != "good":
        return
    deployments = _ask(prefect, *prefect.question)
    is_late = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
    late = _ask(prefect, "/flow_runs/filter", is_late)
    pools = sorted({run["work_pool_name"] or "none" for run in late})
    idle = [pool for pool in pools if not _has_worker(prefect, pool)]
    if idle:
        said = f"{len(late)} runs are late, and no worker is up for pool {', '.join(idle)}"
        yield Finding("wrong", f"{said}: docs/flows.md")
    elif late:
        yield Finding("warning", f"{len(late)} runs wait until those before them have ended")
    scheduled = [d["name"] for d in deployments if any(s["active"] for s in d["schedules"])]
    yield Finding("good", f"{len(deployments)} deployments, {len(scheduled)} on a schedule")


def _has_worker(prefect: Server, pool: str) -> bool:
    try:
        workers = _ask(prefect, f"/work_pools/{quote(pool)}/workers/filter", {})
    except urllib.error.HTTPError:
        # The pool was deleted.
        return False
    return any(worker["status"] == "ONLINE" for worker in workers)


def _ask_remote(repository: Any) -> Finding:
    """List the top of the default remote."""
    from dvc.fs import RemoteMissingDepsError

    name = repository.config["core"]["remote"]
    shown = f"{name} ({without_secret(repository.config['remote'][name]['url'])})"
    try:
        remote = repository.cloud.get_remote(name)
        remote.fs.ls(remote.path)
    except FileNotFoundError:
        return Finding("good", f"{shown} holds nothing yet; a bucket is made before dvc push")
    except RemoteMissingDepsError:
        return Finding("wrong", f"{shown} needs packages that are not installed here: make team")
    except PermissionError as error:
        return Finding("wrong", f"{shown} refuses the login: {error}")
    except Exception as error:
        # Each kind of remote has errors of its own; one that does not answer is what all mean.
        return Finding("wrong", f"{shown} does not answer: {without_secret(str(error))}")
    return Finding("good", f"{shown} answers")


def _check_server(asked: Server) -> Iterator[Finding]:
    """Ask a server with the login and, where others can reach it, without."""
    try:
        _ask(asked, *asked.question)
    except urllib.error.HTTPError as error:
        said = f"refuses the login; set {asked.variables} (.env)"
        if error.code not in (401, 403):
            said = f"answers with status {error.code}"
        yield Finding("wrong", f"{asked.name} at {asked.shown} {said}")
        return
    except (OSError, ValueError) as error:
        yield Finding("wrong", f"{asked.name} does not answer at {asked.shown}: {error}")
        return
    yield Finding("good", f"{asked.name} answers at {asked.shown}")
    if urlparse(asked.address).hostname in LOOPBACK:
        return
    if asked.address.startswith("http://"):
        yield Finding("warning", f"{asked.name} is asked without TLS: what passes can be read")
    try:
        _ask(asked, *asked.question, as_stranger=True)
    except OSError:
        return
    yield Finding("wrong", f"{asked.name} at {asked.shown} lets anybody in; docs/team.md")


def _ask(asked: Server, path: str, body: dict[str, Any], *, as_stranger: bool = False) -> Any:
    """POST a question and return the answer.

    Raises:
        OSError: the server does not answer, or not as it should (urllib.error.HTTPError).
    """
    parts = urlparse(asked.address)
    headers = {"Content-Type": "application/json"}
    given = unquote(f"{parts.username}:{parts.password or ''}") if parts.username else None
    if (login := given or asked.login) and not as_stranger:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(  # noqa: S310 - http, from settings
        f"{asked.shown}{path}", data=json.dumps(body).encode(), headers=headers
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:  # noqa: S310
        return json.load(reply)


def _read_store(database: Path) -> tuple[list[str], int]:
    """Return where the registered versions keep their files, and how many promotions hang."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as store:
        if (said := store.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(said)
        # A version that was deleted on MLflow's page keeps its row.
        rows = store.execute(
            "SELECT storage_location FROM model_versions WHERE current_stage != 'Deleted_Internal'"
        )
        places = [row[0] for row in rows]
        hanging = store.execute(
            "SELECT count(*) FROM registered_model_tags "
            "WHERE key LIKE 'alias_change.%' AND value LIKE '%\"state\": \"intended\"%'"
        )
        return places, int(hanging.fetchone()[0])


def _missing(place: str) -> str | None:
    """Return a file that a version needs and has not, None where nothing is missing."""
    import yaml

    parsed = urlparse(place)
    if parsed.scheme not in {"", "file"}:
        return None
    folder = Path(unquote(parsed.path))
    try:
        about = yaml.load((folder / "MLmodel").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        code = about["flavors"]["python_function"]
        needed = [entry["path"] for entry in code.get("artifacts", {}).values()]
        needed.append(Path(code.get("model_code_path", "MLmodel")).name)
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return str(folder / "MLmodel")
    return next((str(folder / name) for name in needed if not (folder / name).is_file()), None)
