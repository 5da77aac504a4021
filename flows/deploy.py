"""Put the deployments of prefect.yaml on a Prefect server, with all they need there.

    python -m flows.deploy          with `make ui` up, or PREFECT_API_URL set

Makes the process pool `local`, its queue `workspace`, which runs one flow at a time, and the
deployments. Where NOTIFY_URL is in the environment (or in .env), every run that fails, crashes,
takes too long or is found stale is POSTed there as {"text": ...}, as Slack and many others take it.
Doing it again changes what has changed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import cast
from urllib.parse import urlparse
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.types import SecretDict

from flows import server
from flows.check import STALE
from flows.environment import project_root
from stages.command import log, parser_for, run, without_secret
from stages.errors import DistilleryError, SettingsError

POOL = "local"
QUEUE = "workspace"
NOTIFY_URL = "NOTIFY_URL"
NAME = "bert-distillery-notify"
WORTH_TELLING = ("Failed", "Crashed", "TimedOut", STALE)


def deploy(root: Path) -> None:
    """Make or update pool, queue, deployments and the notification on the server in force."""
    with get_client(sync_client=True) as client:
        make_queue(client)
        if (url := os.environ.get(NOTIFY_URL)) is not None:
            notify(client, url)
            # The rest of such an address is the secret that lets one post there.
            log.info("Runs that fail or are stale are told to %s.", urlparse(url).hostname)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    # The server has to reach a deployment's own process too, wherever this one found it.
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PWD": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        raise DistilleryError(f"prefect deploy --all failed:\n{done.stderr.decode().strip()}")


def make_queue(client: SyncPrefectClient) -> None:
    """Make the pool, and the queue that runs one flow of a checkout at a time."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    try:
        queue = client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(name=QUEUE, concurrency_limit=1, work_pool_name=POOL)
    else:
        # `prefect deploy` by hand makes a queue without a limit.
        client.update_work_queue(queue.id, concurrency_limit=1)


def notify(client: SyncPrefectClient, url: str) -> None:
    """Have the server POST a line to an address when a run ends in a way worth telling.

    Raises:
        SettingsError: the address is none.
    """
    if not url.startswith(("https://", "http://")):
        raise SettingsError(f"{NOTIFY_URL} must be an http or https address")
    # The address is the secret of most such services: kept where the page does not show it.
    webhook = CustomWebhookNotificationBlock(
        name=NAME,
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        headers=None,
        cookies=None,
        secrets=SecretDict({"url": url}),
    )
    block_id = cast("UUID", webhook.save(NAME, overwrite=True))
    automation = AutomationCore(
        name=NAME,
        description="Tell somebody of runs that need them.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in WORTH_TELLING},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_id,
                subject="{{ flow.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )
    known = client.read_automations_by_name(NAME)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def main(arguments: argparse.Namespace) -> None:
    """Deploy to the configured server, else to that of `make ui`."""
    del arguments
    root = project_root()
    url = get_current_settings().api.url or server.advertised_url()
    if url is None:
        raise SettingsError("no Prefect server is up: start it with make ui, in a second terminal")
    with temporary_settings({PREFECT_API_URL: url}):
        deploy(root)
    shown = without_secret(url)
    log.info("Deployed to %s.", shown.removesuffix("/api"))
    log.info("Now start a worker: PREFECT_API_URL=%s prefect worker start --pool %s", shown, POOL)


if __name__ == "__main__":
    run(main, parser_for(__doc__))
