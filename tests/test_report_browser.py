"""The page in a real browser: it fits three widths, is legible in both schemes, asks no host."""

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_world import write_reports
from test_report import page_of
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.slow

WIDTHS = (390, 820, 1440)
SCHEMES = ("light", "dark")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-port=0"
)

# What sticks out of the window, unless it is in a region of its own that can be scrolled.
STICKING_OUT = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll'))
  .concat(document.documentElement.scrollWidth > innerWidth ? [document.documentElement] : [])
  .map(e => e.outerHTML.slice(0, 120))
"""

# Regions that scroll must be reachable by keyboard and have a name.
UNREACHABLE = """
[...document.querySelectorAll('.scroll')]
  .filter(e => e.tabIndex !== 0 || !e.getAttribute('aria-label'))
  .map(e => e.outerHTML.slice(0, 120))
"""

# Text with a contrast below WCAG's AA: 4.5, or 3 where it is large.
FAINT = """
(() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return paint.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b]
    .map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('title, desc')) continue;
    const style = getComputedStyle(e);
    const ink = rgba(e.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 100));
  }
  return found;
})()
"""


class Browser:
    """A page in headless Chromium, spoken to over its debugging socket on loopback."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers, self.events = socket, itertools.count(1), list[Any]()

    def ask(self, method: str, **arguments: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait_for(self, event: str) -> None:
        while not any(message["method"] == event for message in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=30)))

    def evaluate(self, expression: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def show_as(self, width: int, scheme: str) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    root = tmp_path_factory.mktemp("page")
    profile = root / "profile"
    page = root / "report.html"
    page.write_text(page_of(write_reports(root / "reports"))[0], encoding="utf-8")
    command = [chromium, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            port = debugging_port(profile / "DevToolsActivePort")
            with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None) as socket:
                whole = Browser(socket)
                targets = whole.ask("Target.getTargets")["targetInfos"]
                target = next(t["targetId"] for t in targets if t["type"] == "page")
                address = f"ws://127.0.0.1:{port[0]}/devtools/page/{target}"
                with connect(address, max_size=None) as own:
                    shown = Browser(own)
                    shown.ask("Network.enable")
                    shown.ask("Page.enable")
                    shown.ask("Page.navigate", url=page.as_uri())
                    shown.wait_for("Page.loadEventFired")
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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_all_text_is_legible(
    browser: Browser, width: int, scheme: str
) -> None:
    browser.show_as(width, scheme)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(STICKING_OUT) == []
    # Folded parts have no size: open them, and look again.
    browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(FAINT) == []


def test_what_sticks_out_or_is_faint_would_be_found(browser: Browser) -> None:
    browser.show_as(390, "light")
    browser.evaluate(
        "document.body.append("
        "Object.assign(document.createElement('p'), {id: 'bad', textContent: 'bad'}))"
    )
    browser.evaluate("Object.assign(bad.style, {color: '#ddd', width: '3000px', maxWidth: 'none'})")
    assert any("bad" in found for found in browser.evaluate(STICKING_OUT))
    assert any("bad" in found for found in browser.evaluate(FAINT))
    browser.evaluate("bad.remove()")


def test_wide_tables_are_reached_by_keyboard(browser: Browser) -> None:
    assert browser.evaluate("document.querySelectorAll('.scroll').length") > 5
    assert browser.evaluate(UNREACHABLE) == []


def test_headings_leave_no_level_out(browser: Browser) -> None:
    levels = browser.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_asked_of_any_host(browser: Browser) -> None:
    browser.evaluate("document.body.offsetHeight")
    asked = [
        message["params"]["request"]["url"]
        for message in browser.events
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [address.partition(":")[0] for address in asked] == ["file"]
