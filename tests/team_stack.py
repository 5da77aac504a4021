"""compose.yaml started without containers: its commands, environments and health checks.

What a container would give is put in their place: free ports of loopback for the published ones,
folders for the volumes, files of the checkout for the mounted ones, and Debian's Postgres for the
image's. So what the file says is what runs.
"""

import base64
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from werkzeug.security import generate_password_hash

from flows.server import HOST as LOOPBACK
from flows.server import is_port_free
from tests.conftest import ROOT
from tests.tiny_pipeline import environment

COMPOSE = ROOT / "compose.yaml"
DEBIAN, INITDB = Path("/usr/lib/postgresql"), "*/bin/initdb"
START_SECONDS = 180.0
QUICK = "pbkdf2:sha256:1"


@dataclass(frozen=True, slots=True)
class Team:
    """The running servers, and what a client needs to use them."""

    secrets: dict[str, str]
    """What .env holds: variable -> value."""
    ports: dict[str, int]
    """Port inside the containers -> the one it has here."""
    logs: Path
    postgres: dict[str, str]
    """PGHOST and the like, for the superuser."""
    reader: str
    """The password of MLflow's user `reader`, who was granted nothing."""

    @property
    def client(self) -> dict[str, str]:
        """The environment of somebody who works with the servers."""
        return {
            "PREFECT_API_URL": f"http://{LOOPBACK}:{self.ports['4200']}/api",
            "PREFECT_API_AUTH_STRING": self.secrets["PREFECT_API_AUTH_STRING"],
            "MLFLOW_TRACKING_URI": f"http://{LOOPBACK}:{self.ports['5000']}",
            "MLFLOW_TRACKING_USERNAME": self.secrets["MLFLOW_TRACKING_USERNAME"],
            "MLFLOW_TRACKING_PASSWORD": self.secrets["MLFLOW_TRACKING_PASSWORD"],
            "AWS_ENDPOINT_URL_S3": f"http://{LOOPBACK}:{self.ports['8333']}",
            "AWS_ACCESS_KEY_ID": self.secrets["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["AWS_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def dump(self) -> str:
        """Everything that is in the databases."""
        program = programs_of_postgres() / "pg_dumpall"
        dumped = subprocess.run(
            [program, "--no-role-passwords"],
            env=os.environ | self.postgres, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dumped.stdout


def what_is_missing() -> str | None:
    """Say what the servers need that this machine lacks."""
    if not list(DEBIAN.glob(INITDB)):
        return "Debian's Postgres is not installed here (apt-get install postgresql)"
    if not (Path(sys.executable).parent / "weed").is_file():
        return "requirements-team.lock is not installed here (make team)"
    return None


def programs_of_postgres() -> Path:
    """Return the folder with the programs of the newest Postgres here."""
    return max(DEBIAN.glob(INITDB)).parent


def needed_variables() -> dict[str, str]:
    """Return what compose.yaml refuses to do without, each with the words of its refusal."""
    return dict(re.findall(r"\$\{(\w+):\?([^}]*)\}", COMPOSE.read_text()))


@contextmanager
def running_team(folder: Path) -> Iterator[Team]:
    """Have every server of compose.yaml, healthy, for the block; the worker is left out."""
    ports = dict(zip(("4200", "5000", "5432", *WEED_PORTS), free_ports(), strict=True))
    # As hard as they come: what is not quoted right somewhere fails here.
    given = {name: f"{secrets.token_urlsafe(12)}@:/%#'{name[:2]}" for name in needed_variables()}
    given["PREFECT_API_AUTH_STRING"] = f"admin:{secrets.token_urlsafe(12)}"
    given["AWS_ACCESS_KEY_ID"] = "team"
    given["MLFLOW_TRACKING_USERNAME"] = "trainer"
    services = interpolated(given)
    logs = folder / "logs"
    logs.mkdir()
    with ExitStack() as stack:
        log = logs / "postgres.log"
        postgres = stack.enter_context(running_postgres(services["postgres"], ports["5432"], log))
        names = ["s3", "mlflow", "prefect"]
        placed = {name: here(services[name], folder, ports) for name in names}
        for name in names:
            stack.enter_context(running(placed[name], folder, logs / f"{name}.log"))
        for service in placed.values():
            wait_until_healthy(service, logs)
        team = Team(given, ports, logs, postgres, secrets.token_urlsafe(12))
        make_user(team, given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"])
        make_user(team, "reader", team.reader)
        ask_passwords_quickly(team)
        yield team


WEED_PORTS = ("8333", "8080", "8888", "9333")


def free_ports() -> list[int]:
    """Return seven free ports whose neighbours ten thousand higher are free as well.

    SeaweedFS listens on both.
    """
    found: list[int] = []
    while len(found) < 3 + len(WEED_PORTS):
        port = 20_000 + secrets.randbelow(10_000)
        if port not in found and all(map(is_port_free, (port, port + 10_000))):
            found.append(port)
    return found


def make_user(team: Team, name: str, password: str) -> None:
    """Make a user of MLflow, as its admin."""
    login = f"admin:{team.secrets['MLFLOW_AUTH_ADMIN_PASSWORD']}".encode()
    request = urllib.request.Request(
        f"{team.client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users/create",
        data=json.dumps({"username": name, "password": password}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(login).decode()}",
        },
    )
    urllib.request.urlopen(request).close()


def ask_passwords_quickly(team: Team) -> None:
    """Hash MLflow's passwords by a quick function: it asks for them several times a request.

    By the one it chose itself a request takes half a second, and to register a student takes 80.
    """
    passwords = {
        "admin": team.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"],
        team.secrets["MLFLOW_TRACKING_USERNAME"]: team.secrets["MLFLOW_TRACKING_PASSWORD"],
        "reader": team.reader,
    }
    changes = [
        f"UPDATE users SET password_hash = '{generate_password_hash(password, QUICK)}' "
        f"WHERE username = '{user}';"
        for user, password in passwords.items()
    ]
    subprocess.run(
        [programs_of_postgres() / "psql", "--quiet", "--no-psqlrc", "mlflow_auth"],
        input="".join(changes), env=os.environ | team.postgres, text=True, check=True,
    )  # fmt: skip


def interpolated(given: dict[str, str]) -> dict[str, Any]:
    """Return the services of compose.yaml with its variables filled in as compose does."""

    def value(match: re.Match[str]) -> str:
        return given[match[1]] if match[2] == "?" else match[3]

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(below) for key, below in node.items()}
        if isinstance(node, list):
            return [fill(below) for below in node]
        if isinstance(node, str):
            return re.sub(r"\$\{(\w+):([?-])([^}]*)\}", value, node)
        return node

    services: dict[str, Any] = fill(yaml.safe_load(COMPOSE.read_text()))["services"]
    return services


def here(service: dict[str, Any], folder: Path, ports: dict[str, int]) -> dict[str, Any]:
    """Return a service with its ports, hosts and folders where they are outside a container."""
    places = {"/tmp": str(folder / "tmp")}
    for volume in service.get("volumes", []):
        source, inside = volume.split(":")[:2]
        places[inside] = str(ROOT / source) if source.startswith(".") else str(folder / source)
    for place in places.values():
        if not Path(place).exists():
            Path(place).mkdir()

    def put(text: str) -> str:
        text = re.sub(r"\b0\.0\.0\.0\b|\b(s3|mlflow|prefect)(?=:\d)", LOOPBACK, text)
        text = re.sub(r"\b\d{4}\b", lambda port: str(ports.get(port[0], port[0])), text)
        for inside, outside in places.items():
            text = re.sub(rf"(?<![\w/.]){inside}(?![\w-])", outside, text)
        return text

    values = service.get("environment", {})
    return {
        "command": [put(word) for word in service["command"]],
        "environment": {
            name: value if SECRET.search(name) else LOOPBACK if name == "PGHOST" else put(value)
            for name, value in values.items()
        },
        "test": [put(word) for word in service["healthcheck"]["test"][1:]],
    }


SECRET = re.compile("KEY|PASSWORD|AUTH_STRING")


@contextmanager
def running(service: dict[str, Any], folder: Path, log: Path) -> Iterator[None]:
    """Have a server for the block; its log is the file."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            service["command"], cwd=folder, env=environment(**service["environment"]),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for process in family:
            process.kill()
        server.wait()


def wait_until_healthy(service: dict[str, Any], logs: Path) -> None:
    """Ask the health check of a service until it passes."""
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(service["test"], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            said = "\n".join(log.read_text()[-2000:] for log in logs.iterdir())
            raise TimeoutError(f"{service['command']} is not healthy:\n{said}")
        time.sleep(0.3)


@contextmanager
def running_postgres(service: dict[str, Any], port: int, log: Path) -> Iterator[dict[str, str]]:
    """Do as the postgres image does: a new cluster, then the files that wait to be read once."""
    programs = programs_of_postgres()
    # Postgres refuses to run as root, and nobody can look into the folders of root's tests.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="team-postgres-"))
    superuser = {
        "PGHOST": LOOPBACK,
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGPASSWORD": service["environment"]["POSTGRES_PASSWORD"],
    }
    try:
        (folder / "password").write_text(superuser["PGPASSWORD"])
        for path in (folder, folder / "password"):
            if user:
                shutil.chown(path, user)
        data = str(folder / "data")
        subprocess.run(
            [programs / "initdb", "--pgdata", data, "--username", "postgres", "--no-sync",
             "--auth", "scram-sha-256", "--pwfile", folder / "password"],
            cwd=folder, user=user, capture_output=True, check=True,
        )  # fmt: skip
        with log.open("wb") as output:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), "-k", str(folder),
                 "-c", f"listen_addresses={LOOPBACK}", "-c", "fsync=off"],
                cwd=folder, user=user, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            ready = [str(programs / "pg_isready"), "--host", LOOPBACK, "--port", str(port)]
            wait_until_healthy({"test": ready, "command": ["postgres"]}, log.parent)
            (mounted,) = (v.split(":")[0] for v in service["volumes"] if "initdb.d" in v)
            subprocess.run(
                [programs / "psql", "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file",
                 ROOT / mounted],
                env=os.environ | service["environment"] | superuser, check=True,
            )  # fmt: skip
            yield superuser
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
    finally:
        shutil.rmtree(folder)
