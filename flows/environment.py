"""What must be set before Prefect is imported: its home, its manners, and where the project is.

Reads .env in the project root, if there is one; what the process was started with wins over it.
"""

import logging
import os
from pathlib import Path

from stages.errors import SettingsError

DEFAULTS = {
    # Telemetry: the first silences Prefect's client, the second its server.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # The server that Prefect hides inside a flow run loses task records: refuse it.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}


def project_root() -> Path:
    """Return the project that the flow works on: the folder it was started in.

    Raises:
        SettingsError: there is no dvc.yaml here.
    """
    root = Path.cwd()
    if not (root / "dvc.yaml").is_file():
        raise SettingsError(f"{root} holds no dvc.yaml; start this from the project's root")
    return root


def prefect_home() -> Path:
    """Return the folder with Prefect's database, shared by every flow and by `make ui`."""
    return Path(os.environ["PREFECT_HOME"])


def configure() -> None:
    """Put the defaults into the environment, ours and every child's, and let our messages show."""
    from dotenv import load_dotenv

    load_dotenv(Path(".env"))
    os.environ.setdefault("PREFECT_HOME", str(Path.cwd() / ".prefect"))
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Prefect takes the root logger over and shows only warnings of whatever it does not know.
    logging.getLogger("distillery").setLevel(logging.INFO)
