"""The slider over a threshold says what `biology judge --threshold` says, and the registered threshold stays marked."""

import json
import re

import pytest
from multi_hop_tables import write_repository

from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.config import StatisticsConfig, load_config
from biology.report import case_report as report
from biology.report.claim_evidence import Subject
from biology.statistics import generator, resamples, sign_flips
from biology.tables import read_table, read_tables
from biology.verdicts.claims import judge_all, with_thresholds
from biology.verdicts.measuring import Meta, estimate, measure
from biology.verdicts.thresholds import family
from browser.conftest import ROOT, sideways, violations

pytestmark = pytest.mark.browser

READ = "id => JSON.parse(document.getElementById(id).textContent).claims"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    root = write_repository(tmp_path_factory.mktemp("repository"))
    path = root / "reports/elegans/multi_hop.html"
    page = report.case_page(root, load_config(root / "config.yaml"), "elegans", load_case(root, "multi_hop"))
    path.write_text(page, encoding="utf-8")
    return root, path


def test_every_place_of_every_slider_is_what_judge_says(open_page, made_up):
    root, path = made_up
    page = open_page(path)
    claims, tables = load_claims(root, "multi_hop"), read_tables(root / "data/runs/elegans/multi_hop")
    meta = Meta("multi_hop", "elegans", "per_layer relu", strengths={"swap_state": 2.0}, row_residual=4e-7)
    compared, turning = 0, 0
    for claim, parts in page.evaluate(READ, "claims-data").items():
        for number, part in enumerate(parts):
            places = range(len(part["thresholds"]))
            said = page.evaluate(
                "([claim, part, places]) => places.map(place => biologyVerdict(claim, {[part]: place}))",
                [claim, number, list(places)],
            )
            turning += len(set(said)) > 1
            for place in [*places[:3], *places[3::9]]:
                wanted = [f"{part['key']}={part['thresholds'][place]}"]
                changed = with_thresholds(claims, wanted)
                again = judge_all(measure(changed, tables["evidence"], tables["prompts"], meta)).verdicts
                assert said[place] == again.set_index("claim").loc[claim, "verdict"], wanted
                compared += 1
    assert compared > 20 and turning > 0


def test_moving_a_slider_shows_it_and_marks_what_was_registered(open_page, made_up):
    page = open_page(made_up[1])
    page.locator("details.evidence summary").first.click()
    box = page.locator(".whatif").first
    slider, output = box.locator("input"), box.locator("output")
    assert output.inner_text() == "the registered threshold" and not page.locator(".yours.moved").count()
    slider.focus()
    page.keyboard.press("End")
    assert "part" in output.inner_text() and "not replicated" in output.inner_text()
    assert "biology judge --model elegans --threshold" in output.inner_text()
    part = page.locator(".part").first
    assert page.locator(".yours.moved").count() == 1
    assert part.locator(".limit").get_attribute("x1") != part.locator(".yours").get_attribute("x1")
    assert box.locator(".bands b").is_visible()  # the registered one stays marked
    slider.evaluate("(node) => { node.value = node.defaultValue; node.dispatchEvent(new Event('input')); }")
    assert output.inner_text() == "the registered threshold"


def test_what_is_left_is_judged_as_python_judges_it(open_page, made_up):
    """Clusters, prompts with a word, or the control left out; fewer resamples than there, so the bounds are near and not equal."""
    root, path = made_up
    frame, page = report.scored_prompts(root, "elegans", load_case(root, "multi_hop")), open_page(path)
    parts = read_table(root / "data/runs/elegans/parts.parquet", "parts").set_index(["claim", "part"])
    verdicts = set()
    for claim in load_claims(root, "multi_hop"):
        for place, part in enumerate(claim.parts):
            row = parts.loc[claim.id, part.name]
            rows = frame[(frame["claim"] == claim.id) & (frame["part"] == part.name) & frame["scored"]]
            if row["verdict"] == "untestable":
                continue
            names = sorted(rows["cluster"].unique())
            for without, left in (
                ("{}", rows),
                (f"{{clusters: new Set({json.dumps(names[::3])})}}", rows[~rows["cluster"].isin(names[::3])]),
                ("{word: 'region'}", rows[~rows["prompt"].str.contains("region")]),
                ("{alone: true}", rows.assign(score=rows["effect"])),
            ):
                scores = left.groupby("cluster")["score"].mean().to_numpy()[:, None]
                assert len(left) and (len(left) < len(rows) or without in ("{}", "{alone: true}"))
                rng = generator("test")
                wanted = estimate(
                    part, scores, sign_flips(len(scores), 20_000, rng), resamples(len(scores), 10_000, rng)
                )
                statistic, low, high, p = (float(one[0]) for one in wanted)
                p = min(1.0, p * row["p_holm"] / row["p"])
                found = page.evaluate(f"biologyWithout({claim.id!r}, {place}, {without})")
                assert found["statistic"] == pytest.approx(statistic, abs=2e-3)
                assert found["low"] == pytest.approx(low, abs=0.1 * (high - low) + 2e-3)
                assert found["high"] == pytest.approx(high, abs=0.1 * (high - low) + 2e-3)
                assert found["p"] == pytest.approx(p, rel=0.2, abs=1e-3)
                if without == "{}":
                    assert found["verdict"] == row["verdict"]
                verdicts.add(found["verdict"])
    assert len(verdicts) > 1


def test_leaving_out_by_hand(open_page, made_up):
    page = open_page(made_up[1])
    page.locator("details.evidence summary").first.click()
    box = page.locator("details.leave").first
    box.locator("summary").click()
    output, ticks = box.locator("output"), box.locator("fieldset input")
    output.locator(".badge").first.wait_for()
    count = ticks.count()
    before = output.inner_text()
    assert before.startswith(f"{count} of {count} clusters")
    ticks.first.check()
    assert output.inner_text().startswith(f"{count - 1} of {count} clusters") and output.inner_text() != before
    for number in range(1, count - 2):
        ticks.nth(number).check()
    assert output.inner_text() == f"Of {count} clusters 5 at least are needed, and 2 are left."
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_claim_that_was_computed_anew(open_page, made_up, tmp_path, scheme):
    root, run = made_up[0], made_up[0] / "data/runs/elegans"
    parts, clusters = (read_table(run / f"{name}.parquet", name) for name in ("parts", "clusters"))
    verdicts = read_table(root / "reports/elegans/verdicts.csv", "verdicts").set_index("claim")
    tables, case = read_tables(run / "multi_hop"), load_case(root, "multi_hop")
    subject = Subject("elegans", case, tables, parts, clusters, family(parts), StatisticsConfig(), folder=".")
    claim = load_claims(root, "multi_hop")[0]
    path = tmp_path / "claim.html"
    path.write_text(report.claim_page(subject, claim, verdicts.loc[claim.id], "It agrees.", {}), encoding="utf-8")
    page = open_page(path, color_scheme=scheme, width=360, height=740)
    page.locator("details.evidence summary").first.click()
    page.locator("details.leave summary").first.click()
    page.locator("details.leave output .badge").first.wait_for()
    assert violations(page) == [] and sideways(page) == 0


@pytest.mark.parametrize("case", discover_cases(ROOT))
def test_real_pages_agree_with_the_registered_verdicts(open_page, case):
    path = ROOT / f"reports/elegans/{case}.html"
    if not path.is_file():
        pytest.skip(f"{path} is not written yet: make figures")
    page = open_page(path)
    for claim, parts in page.evaluate(READ, "claims-data").items():
        places = {str(number): part["registered"] for number, part in enumerate(parts) if part["thresholds"]}
        said = page.evaluate("([claim, places]) => biologyVerdict(claim, places)", [claim, places])
        badge = page.locator(f"section[aria-labelledby='claim-{claim}'] .ruling .badge").inner_text()
        assert said in badge, (claim, json.dumps(places))


def test_all_prompts_can_be_filtered_and_a_link_opens_a_part(open_page, made_up):
    root, path = made_up
    frame = report.scored_prompts(root, "elegans", load_case(root, "multi_hop"))
    page = open_page(path, "prompts/multihop-2/1")
    page.locator("#browse-rows tbody tr").first.wait_for()
    rows = frame[(frame["claim"] == "multihop-2") & (frame["part"] == "around it")]
    assert page.locator("#browse-part option:checked").inner_text() == "multihop-2: around it"
    worst = rows.sort_values("score", kind="stable").iloc[0]
    assert page.locator("#browse-rows tbody tr").first.locator("td").first.inner_text() == worst["prompt"]
    assert page.locator("#browse-told").inner_text().startswith(f"{len(rows)} prompts, 40 of them shown.")
    page.select_option("#browse-which", "against")
    against = int((rows["score"] <= 0).sum())
    assert page.locator("#browse-told").inner_text().startswith(f"{against} prompts")
    page.select_option("#browse-which", "all")
    page.fill("#browse-find", "C17 is")
    shown = page.locator("#browse-rows tbody tr td:first-child").all_inner_texts()
    assert sorted(shown) == sorted(rows.loc[rows["prompt"].str.contains("C17 is"), "prompt"]) and shown
    page.click("#browse-more") if page.locator("#browse-more").is_visible() else None
    page.evaluate("location.hash = '#prompts/multihop-7/0'")
    page.wait_for_function("document.querySelector('#browse-part').selectedOptions[0].text === 'multihop-7: swap'")


@pytest.mark.parametrize("case", discover_cases(ROOT))
def test_a_case_opens_with_its_story_and_prints_on_few_pages(open_page, case):
    """Both graphs, the intervention and all verdicts stand within the first screen; in print, at most twelve pages.

    The two cases about the method have no story: the paper tells none."""
    path = next(iter(sorted(ROOT.glob(f"reports/*/{case}.html"))), None)
    if path is None:
        pytest.skip(f"no page of {case} is written yet: make figures")
    page = open_page(path, width=1280, height=900)
    told = (".sketch >> nth=0", ".sketch >> nth=1", ".done") if load_case(ROOT, case).story else ()
    for selector in (*told, ".strip"):
        box = page.locator(selector).bounding_box()
        assert box is not None and box["y"] + box["height"] <= 1000, selector
    pages = re.findall(rb"/Type\s*/Page[^s]", page.pdf(format="A4"))
    assert 0 < len(pages) <= 12


def test_a_link_opens_what_it_points_at(open_page):
    path = ROOT / "reports/index.html"
    if not path.is_file():
        pytest.skip(f"{path} is not written yet: make figures")
    last = (
        open_page(path).locator('[id$="-multihop-1"]').last.get_attribute("id")
    )  # far down, in a table that is folded
    page = open_page(path, last)
    assert page.locator(f"#{last}").is_visible()
    for link in page.locator("a.sign").evaluate_all("nodes => nodes.map(node => node.getAttribute('href'))"):
        target, _, fragment = link.partition("#")
        if target:
            assert f'id="{fragment}"' in (path.parent / target).read_text(encoding="utf-8"), link
        else:
            assert page.locator(f'[id="{fragment}"]').count() == 1, link
