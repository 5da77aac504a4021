"""The page in a real browser: it fits three widths, is legible in both schemes, asks no host."""

import itertools
from collections.abc import Iterator

import pytest
from report_world import write_reports
from test_report import page_of

from tests.browser import Browser, browser_at

pytestmark = pytest.mark.slow

WIDTHS = (390, 820, 1440)
SCHEMES = ("light", "dark")

# What sticks out of the window, unless it is in a region of its own that can be scrolled.
STICKING_OUT = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll'))
  .concat(document.documentElement.scrollWidth > innerWidth ? [document.documentElement] : [])
  .map(e => e.outerHTML.slice(0, 120))
"""

# On paper nothing scrolls: columns past the edge, and names that are broken between their letters.
CUT_ON_PAPER = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5
    || (e.matches('.bars dt') && e.offsetHeight > 2 * parseFloat(getComputedStyle(e).fontSize)))
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    root = tmp_path_factory.mktemp("page")
    page = root / "report.html"
    page.write_text(page_of(write_reports(root / "reports"))[0], encoding="utf-8")
    with browser_at(root / "profile") as shown:
        shown.ask("Page.navigate", url=page.as_uri())
        shown.wait_for("Page.loadEventFired")
        yield shown


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


def test_on_paper_no_column_is_cut_and_no_name_broken(browser: Browser) -> None:
    # A4 without its margins.
    browser.show_as(688, "light")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(CUT_ON_PAPER) == []


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
