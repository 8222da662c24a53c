"""The atlas of a language model of a hundred thousand features: the page is there at once, and finds each of them."""

import json

import pytest
from test_atlas import page_of, survey  # noqa: F401 (a fixture)

from browser.conftest import violations

pytestmark = pytest.mark.browser


@pytest.fixture
def large(page_of, tmp_path):  # noqa: F811
    features, prompts = survey([3072] * 30, 1, vocabulary=45_000, n_prompts=200, signs=True)
    path = tmp_path / "atlas.html"
    path.write_bytes(page_of(features, prompts, [("i0", 7, 11), ("i1", 7, 11)]))
    return features, path


@pytest.mark.at_rest
def test_a_large_page_is_there_at_once_and_finds_every_feature(large, open_page):
    features, path = large
    row = features.iloc[29 * 3072 + 1999]
    page = open_page(path, f"29-{row['feature']}")
    page.locator("#card").get_by_role("heading", name="Feature 29/1999").wait_for()
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted <= 1000
    card = page.locator("#card").inner_text()
    assert f"{float(row['maximum']):.3g}" in card and json.loads(row["raises"])[0] in card
    assert page.locator("#card mark").count() > 5 and page.locator("#hits li").count() == 60
    page.fill("#search", json.loads(row["raises"])[0])
    assert page.locator("#hits b").filter(has_text="29/1999").count() == 1
    page.fill("#search", "7/11")
    page.locator("#card").get_by_role("heading", name="Feature 7/11", exact=True).wait_for()
    assert page.locator("#card .groups").inner_text().startswith("place 0 bridge of toy, on 1 prompt")
    page.evaluate("location.hash = '#30-1'")
    page.locator("#card").get_by_text("Feature 30/1 is not in this page, or there is none.").wait_for()
    assert violations(page) == []


def test_without_scripts_it_says_what_it_needs(large, open_page):
    page = open_page(large[1], java_script_enabled=False)
    assert "allow JavaScript" in page.locator("noscript").inner_text() and page.locator("table tbody tr").count() == 30
