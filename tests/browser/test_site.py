"""The built site from disk: nothing is asked of the network, search works, a phone shows it, and it is accessible in both schemes."""

from pathlib import Path

import pytest

from browser.conftest import sideways, violations

SITE = Path(__file__).parents[2] / "build/site"
KINDS = (
    "index",
    "tutorials/extend_a_case",
    "reference/commands",
    "reference/checklist",
    "api/attribution/assembly",
    "results/verdicts",
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not SITE.is_dir(), reason="no site here: make site")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", KINDS)
def test_a_page_is_accessible(open_page, place, scheme):
    assert violations(open_page(SITE / f"{place}.html", within=SITE, color_scheme=scheme)) == []


@pytest.mark.parametrize("place", KINDS)
def test_a_phone_shows_all_of_it(open_page, place):
    assert sideways(open_page(SITE / f"{place}.html", within=SITE, width=360, height=740)) == 0


def test_search_works_from_disk(open_page):
    page = open_page(SITE / "index.html", within=SITE)
    page.locator(".md-search__input").press_sequentially("interchange accuracy")
    page.wait_for_selector(".md-search-result__item")
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("planting.html" in link or "glossary.html" in link for link in found)
