"""The model registry, asked through its own command, so that no flow imports MLflow."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from stages.command import without_secret
from stages.errors import DataError, DistilleryError


def ask(root: Path, action: str, *options: str) -> Any:
    """Run `python -m stages.registry.promotion ACTION --json` and return its answer.

    Raises:
        DistilleryError: the registry refused or failed; the message is the registry's own.
    """
    command = [sys.executable, "-m", "stages.registry.promotion", action, "--json", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The last entry of its log is the reason; the time before it would only be in the way.
        reason = re.split(r"(?m)^\d\d:\d\d:\d\d ", done.stderr)[-1].strip()
        raise DistilleryError(without_secret(reason) or f"{action} exited with {done.returncode}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise DataError(f"{' '.join(command)} did not answer in JSON: {done.stdout}") from error
