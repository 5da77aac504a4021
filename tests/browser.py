"""A page in headless Chromium, spoken to over its debugging socket on loopback."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-port=0"
)

# A browser on a busy machine may be slow to answer a ping: nobody minds.
dial = partial(connect, max_size=None, ping_interval=None)


class Browser:
    """A page in headless Chromium, spoken to over its debugging socket on loopback."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers, self.events = socket, itertools.count(1), list[Any]()

    def ask(self, method: str, **arguments: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while True:
            message = json.loads(self.socket.recv(timeout=120))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait_for(self, event: str) -> None:
        while not any(message["method"] == event for message in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=120)))

    def evaluate(self, expression: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def show_as(self, width: int, scheme: str) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path) -> None:
        """Keep what is shown as a PNG file."""
        shown = self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shown["data"]))


@contextmanager
def browser_at(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own for the block; skip where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    command = [chromium, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            port = debugging_port(profile / "DevToolsActivePort")
            with connect(
                f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None, ping_interval=None
            ) as socket:
                targets = Browser(socket).ask("Target.getTargets")["targetInfos"]
                target = next(t["targetId"] for t in targets if t["type"] == "page")
                address = f"ws://127.0.0.1:{port[0]}/devtools/page/{target}"
                with dial(address) as own:
                    shown = Browser(own)
                    shown.ask("Network.enable")
                    shown.ask("Page.enable")
                    yield shown
        finally:
            process.kill()


def debugging_port(path: Path) -> tuple[str, str]:
    """Return the port and the path at which the browser listens, once it does."""
    for _ in range(300):
        if path.is_file() and re.fullmatch(r"\d+\n\S+", text := path.read_text().strip()):
            port, address = text.split("\n")
            return port, address
        time.sleep(0.1)
    pytest.fail("chromium did not open its debugging port in 30 seconds")
