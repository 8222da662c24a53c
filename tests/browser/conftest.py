"""Pages in a real browser (Debian's chromium, driven by Playwright), read from disk with the network cut off.

`make test-browser` runs these; `make test` leaves them out. Every page that a test opens is watched: one request that is not
for the page's own file, one error on the console, or one exception in a script fails the test, whatever else it checks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
QUIET = ("background-networking", "component-update", "sync", "gpu", "default-apps", "extensions")
ARGUMENTS = ["--no-sandbox", "--no-first-run", "--no-pings", *(f"--disable-{what}" for what in QUIET)]
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
"""Rules of axe that are level A and AA of the Web Content Accessibility Guidelines, up to version 2.2."""


def asked(model: str) -> list[str]:
    """The cases with supernodes that a model of this checkout meets: the pages are tested in one that asks for a case alone, too."""
    from biology.cases.case import discover_cases, load_case
    from biology.config import load_config

    met = load_config(ROOT / "config.yaml").cases_of(model, discover_cases(ROOT))
    return [case for case in met if load_case(ROOT, case).supernodes]


def written_pages() -> list[Path]:
    """The pages that the pipeline has written, where it has run."""
    return sorted([*ROOT.glob("reports/*.html"), *ROOT.glob("reports/*/*.html")])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser, with a fresh profile, for all tests of a session."""
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).is_file():
        pytest.fail(f"{CHROMIUM}: no browser. Install the Debian package chromium, or name a browser in CHROMIUM.")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Factory: `open_page(path, fragment="", width=1440, height=900, **context)` is the loaded page.

    A page may ask for files of the folder `within`, and for nothing else. `context` goes to the browser, such as `color_scheme="dark"`, `java_script_enabled=False` or `has_touch=True`.
    """
    opened: list[Any] = []
    wrong: list[str] = []

    def open_(
        path: Path, fragment: str = "", width: int = 1440, height: int = 900, within: Path | None = None, **options: Any
    ) -> Page:
        options = {"reduced_motion": "reduce", "viewport": {"width": width, "height": height}} | options
        context = browser.new_context(offline=True, **options)
        opened.append(context)
        page = context.new_page()
        address = path.resolve().as_uri()

        def asked(url: str) -> None:
            beside = within is not None and url.startswith(within.resolve().as_uri() + "/")
            if not beside and not url.startswith(("data:", "blob:")) and url.partition("#")[0] != address:
                wrong.append(f"a request for {url[:200]}")

        def said(kind: str, text: str) -> None:
            if kind == "error":
                wrong.append(f"on the console: {text[:500]}")

        page.on("request", lambda request: asked(request.url))
        page.on("console", lambda message: said(message.type, message.text))
        page.on("pageerror", lambda error: wrong.append(f"an exception: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(address + (f"#{fragment}" if fragment else ""))
        return page

    yield open_
    for context in opened:
        context.close()
    assert not wrong, "; ".join(wrong)


def violations(page: Page) -> list[str]:
    """What axe finds against levels A and AA on a page as it is shown now: rule, place and what is wrong there."""
    from axe_playwright_python.sync_playwright import Axe

    # no preload: axe would ask for style sheets beside a page, which a page from disk may not
    options = {"runOnly": {"type": "tag", "values": LEVELS}, "resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']} at {' '.join(map(str, node['target']))}: {node.get('failureSummary', '')}"
        for rule in found
        for node in rule["nodes"]
    ]


def sideways(page: Page) -> int:
    """By how many pixels the page as a whole can be scrolled sideways."""
    return page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth")
