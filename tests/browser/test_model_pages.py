"""The atlas and the steering board: every feature has an address, search and chance find one, strengths change answers."""

import pytest

from biology.tables import read_table
from browser.conftest import ROOT

ATLAS, STEER = ROOT / "reports/elegans/atlas.html", ROOT / "reports/elegans/steer.html"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (ATLAS.is_file() and STEER.is_file()), reason="pages are not written yet: make figures"),
]


def test_a_link_opens_the_card_of_a_feature_as_the_table_has_it(open_page):
    row = read_table(ROOT / "data/runs/elegans/atlas.parquet", "atlas").query("layer == 2 and density > 0").iloc[7]
    page = open_page(ATLAS, f"2-{row['feature']}", width=360)
    card = page.locator("#card")
    card.get_by_role("heading", name=f"Feature 2/{row['feature']}").wait_for()
    assert f"{row['maximum']:.3g}" in card.inner_text() and card.locator("mark").count() > 0
    assert page.evaluate("document.getElementById('card').getBoundingClientRect().top") < 400  # it is in view


def test_search_layer_order_and_chance(open_page):
    page = open_page(ATLAS)
    page.locator("#hits li").first.wait_for()
    page.fill("#search", "Austin")
    page.locator("#hits a").first.click()
    number = page.evaluate("location.hash")[1:].replace("-", "/")
    page.locator("#card").get_by_role("heading", name=f"Feature {number}", exact=True).wait_for()
    assert "Austin" in page.locator("#card").inner_text()
    page.select_option("#layer", "3")
    assert all(text.startswith("3/") for text in page.locator("#hits b").all_inner_texts())
    page.fill("#search", "")
    page.select_option("#order", "dense")
    shares = [text.rstrip("%").lstrip("<") for text in page.locator("#hits small").all_inner_texts()]
    assert [float(s) for s in shares] == sorted((float(s) for s in shares), reverse=True)
    before = page.locator("#card h3").inner_text()
    seen = {before}
    for _ in range(4):
        page.click("#lucky")
        page.wait_for_timeout(50)
        seen.add(page.locator("#card h3").inner_text())
    assert len(seen) > 2


def test_every_supernode_option_lists_features_that_say_so(open_page):
    page = open_page(ATLAS)
    page.locator("#supernode option").nth(1).wait_for(state="attached")
    page.select_option("#supernode", "0")
    page.locator("#hits a").first.click()
    title = page.locator("#supernode option:checked").inner_text()
    assert title in page.locator("#card .groups").inner_text()


def test_strength_changes_the_answer_and_the_link_keeps_it(open_page):
    page = open_page(STEER, "multi_hop/dallas/oakland/bridge/hold/2")
    after = page.locator("#after li").first
    after.wait_for()
    assert (
        after.locator("span").inner_text() == "Sacramento"
        and page.locator("#before li span").first.inner_text() == "Austin"
    )
    page.focus("#strength")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#after li span").first.inner_text() == "Austin"
    assert page.evaluate("location.hash").endswith("/hold/0")
    table = read_table(ROOT / "data/runs/elegans/multi_hop/steering.parquet", "steering")
    at = table.query(
        "item == 'dallas' and source == 'oakland' and supernode == 'bridge' and mode == 'hold' and strength == 0"
    )
    assert set(page.locator("#after li span").all_inner_texts()) == set(at["text"].str.replace("\n", "↵"))


def test_surprises_are_surprising(open_page):
    page = open_page(STEER)
    page.locator("#after li").first.wait_for()
    addresses = set()
    for _ in range(4):
        page.click("#lucky")
        page.wait_for_timeout(50)
        addresses.add(page.evaluate("location.hash"))
        assert page.locator("#after li").count() > 0
    assert len(addresses) > 2
