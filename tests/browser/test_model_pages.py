"""The atlas and the steering board: every feature has an address, search and chance find one, strengths change answers."""

import pytest

from biology.tables import read_table
from browser.conftest import ROOT, asked

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


def test_search_opens_the_first_hit_and_orders_are_what_they_say(open_page):
    page = open_page(ATLAS)
    page.locator("#hits li").first.wait_for()
    page.fill("#search", "Austin")
    first = page.locator("#hits b").first.inner_text()
    page.locator("#card").get_by_role("heading", name=f"Feature {first}", exact=True).wait_for()
    assert "Austin" in page.locator("#card").inner_text() and "best match first" in page.locator("#found").inner_text()
    page.fill("#search", "dallas")  # in pieces: Da ##lla ##s
    assert page.locator("#hits li").count() > 5
    page.select_option("#layer", "3")
    assert all(text.startswith("3/") for text in page.locator("#hits b").all_inner_texts())
    for order, words in (("dense", "densest first"), ("rare", "rarest first")):
        page.select_option("#order", order)
        shares = [text.rstrip("%").lstrip("<") for text in page.locator("#hits small").all_inner_texts()]
        numbers = [float(share) for share in shares]
        assert numbers == sorted(numbers, reverse=order == "dense") and words in page.locator("#found").inner_text()
    page.fill("#search", "no such thing")
    assert page.locator("#none").is_visible() and page.locator("#hits li").count() == 0
    page.click("#clear")
    assert not page.locator("#none").is_visible() and page.locator("#hits li").count() > 5


def test_chance_shows_other_features(open_page):
    page = open_page(ATLAS)
    page.locator("#hits li").first.wait_for()
    seen = set()
    for _ in range(5):
        page.click("#lucky")
        page.wait_for_timeout(50)
        seen.add(page.locator("#card h3").inner_text())
    assert len(seen) > 2


def test_a_kind_and_what_is_found_for_it_narrow_the_list(open_page):
    page = open_page(ATLAS)
    page.locator("#facet option").nth(1).wait_for(state="attached")
    assert page.locator("#facet option").count() < 60
    page.select_option("#facet", "multi_hop: bridge")
    page.fill("#role", "Tex")
    assert page.locator("#roles option").evaluate_all("all => all.map(one => one.value)") == ["Texas"]
    page.fill("#role", "Texas")
    page.locator("#hits a").first.click()
    assert "Texas" in page.locator("#card .groups").inner_text()


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


def test_it_opens_on_something_that_works_beside_its_control(open_page):
    page = open_page(STEER)
    page.locator("#after li").first.wait_for()
    top = [page.locator(f"#{side} li span").first.inner_text() for side in ("before", "after")]
    assert top[0] != top[1] and page.evaluate("scrollY") == 0
    offers = page.locator(".offers")
    cases = asked("elegans")
    assert offers.count() == len(cases)
    for number in range(len(cases)):
        rows = offers.nth(number).locator("tbody tr")
        assert 3 <= rows.count() <= 6 and offers.nth(number).locator(".after").count() >= 2
        still = rows.evaluate_all("rows => rows.map(row => !row.querySelector('.after'))")
        assert still == sorted(still)  # what changes the answer comes first
    assert "random features" in offers.first.locator("thead").inner_text()
    offers.nth(cases.index("multi_hop")).get_by_role("link", name="on the board").first.click()
    page.wait_for_function("document.getElementById('case').value === 'multi_hop'")


def test_what_is_inert_says_so(open_page):
    page = open_page(STEER)
    page.locator("#after li").first.wait_for()
    page.select_option("#case", "multi_hop")
    names = page.locator("#way option").all_inner_texts()
    still = [name.endswith("changes nothing") for name in names]
    assert still == sorted(still) and not any("_" in name for name in names)
    if any(still):
        page.select_option("#way", label=names[still.index(True)])
        assert page.locator("#inert").inner_text().startswith("Inert")


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
