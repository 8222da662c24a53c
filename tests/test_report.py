"""A page asks nothing of the network, its numbers come from tables, and whatever it quotes is escaped."""

import ast
import html
import json
import re
import shutil
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from multi_hop_tables import write_repository
from page_reader import Reader

from biology import wording
from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.cases.rules import SupernodeRule
from biology.cli import checking
from biology.config import StatisticsConfig, load_config
from biology.findings.faults import held_by
from biology.records import InputError
from biology.report import case_report as report
from biology.report import index_page, pages
from biology.report.claim_evidence import Subject
from biology.report.prose import TEXTS
from biology.tables import read_table, read_tables, table, write_table
from biology.verdicts.thresholds import family


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def page(root):
    return report.case_page(root, load_config(root / "config.yaml"), "elegans", load_case(root, "multi_hop"))


def test_the_page_is_whole_and_asks_nothing_of_the_network(page):
    reader = Reader(page)
    assert len(reader.sources) == 6 and all(source.startswith("data:image/svg+xml,") for source in reader.sources)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    assert not [found["src"] for tag, found in reader.tags if tag == "script" and "src" in found]
    assert not [word for word in ("@import", "url(", "fetch(") if word in re.sub(r'"data:[^"]*"', "", page)]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in reader.tags
    assert all(found.get("alt") for tag, found in reader.tags if tag == "img")


def drawn(svg):
    """What an SVG draws, whatever its coordinates' last digits: tags in their order, attributes, and the numbers of paths."""
    found = []
    for element in ElementTree.fromstring(svg).iter():
        if (
            not isinstance(element.tag, str)
            or "metadata" in element.tag
            or "rdf" in element.tag
            or "cc#" in element.tag
        ):
            continue
        if "purl.org" in element.tag or "creativecommons" in element.tag:
            continue
        path = element.attrib.pop("d", "")
        numbers = [float(one) for one in re.findall(r"-?[0-9.]+", path)]
        found.append((element.tag, dict(element.attrib), re.findall("[A-Za-z]", path), numbers))
    return found


def test_figures_in_a_page_are_the_figures_in_files(page, root):
    """To a thousandth of a point, and without what is not drawn: a page has many of them."""
    folder = root / "figures/elegans/multi_hop"
    names = load_case(root, "multi_hop").figures
    for name, source in zip(names, Reader(page).sources, strict=True):
        file = (folder / f"{name}.svg").read_text(encoding="utf-8")
        there, here = drawn(file), drawn(unquote(source.removeprefix("data:image/svg+xml,")))
        assert [one[:3] for one in here] == [one[:3] for one in there] and len(source) < 1.1 * len(file)
        assert all(one[3] == pytest.approx(other[3], abs=1e-3) for one, other in zip(here, there, strict=True))


def test_every_section_claim_and_figure_can_be_linked(page):
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    inner = {link.removeprefix("#") for link in reader.links if link.startswith("#") and not re.search("[=/]", link)}
    assert inner <= set(reader.ids)
    wanted = {"claims", "figures", "graphs", "prompts", "paths", "yours", "about", "provenance", "paths-texas"}
    wanted |= {f"claim-multihop-{i}" for i in (2, 7, 8)} | {"fig-supernode_graph", "fig-fidelity", "fig-path_share"}
    assert wanted <= inner  # each has its ¶, or a place in the list of sections
    assert re.findall(r"<h2(?! id=)", page) == []


def test_each_claim_shows_what_story_and_numbers_need(page, root):
    words = Reader(page).words
    for row in read_table(root / "reports/elegans/verdicts.csv", "verdicts").itertuples():
        assert wording.powers(row.reason) in words and row.verdict in words
    for text in (
        "Inhibiting Texas and injecting California makes the model say Sacramento.", "memory", "digest",
        "biology judge --model elegans", "80 of 80 attempted prompts pass it (100%", "about a quarter",
        "expected on this model: not replicated", "Registered 2026-11-20", "The paper, in our words:",
        "matched random features", "Another threshold?", "The rows behind “swap”", "found by the rule {at: last, factor: place}",
        "not of Claude 3.5 Haiku",
        "elegans is not Claude 3.5 Haiku", "SHA-256 of the sources", "SHA-256 of the weights", "version of python",
        "replacement score 0.871, completeness 0.934", "the worst row is off by 4.1×10⁻⁷",
    ):  # fmt: skip
        assert text in words, text
    assert "commit" not in words


def test_strongest_paths_are_listed(page):
    assert "##las → Texas → say Austin → Austin" in Reader(page).words


def test_where_a_supernode_was_found_is_shown(page, root, tmp_path):
    assert "Where these supernodes are was found" not in page  # no rule of the case says so
    case = load_case(root, "multi_hop")
    stated = {"at": "found", "factor": "place", "among": ["token:Dallas", "last"], "given": ["relation"]}
    rules = {name: SupernodeRule.model_validate(stated) for name in ("texas", "say_a_capital")}
    case = case.model_copy(update={"supernodes": case.supernodes | rules})
    rows = [
        {"supernode": name, "position": at, "first": 0, "last": layer, "accuracy": share * most, "n": 40, "chosen": share * most == 0.9}
        for name, most in (("texas", 1.0), ("say_a_capital", 0.05))
        for at, shares in (("token:Dallas", (0.2, 0.4)), ("last", (0.5, 0.9)))
        for layer, share in enumerate(shares)
    ]  # fmt: skip
    again = shutil.copytree(root, tmp_path / "repository")
    write_table(again / "data/runs/elegans/multi_hop/sites.parquet", table("sites", rows), "sites")
    made = report.case_page(again, load_config(again / "config.yaml"), "elegans", case)
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", made)]
    told = [[re.sub("<.*?>", "", cell) for cell in row] for row in cells]
    assert ["texas", "place", "last", "0 to 1", "40", "90%", "token:Dallas", "40%"] in told
    assert ["say a capital", "place", "token:Dallas (nothing found)", "all", "40", "2.0%", "last", "4.5%"] in told
    said = "found by the rule {at: found, among: ['token:Dallas', last], given: [relation], factor: place}, on this model at last in layers 0 to 1."
    assert said in Reader(made).words


def test_everything_quoted_is_escaped(page, root, tmp_path):
    assert "<capital> & nothing else" in Reader(page).words and "<capital>" not in page
    assert "Two <em>hops</em> and <code>&lt;bos&gt;</code>." in page and "<h3>Why</h3>" in page
    hostile = '</code><script>alert("1")</script>'
    evil = write_repository(tmp_path / "evil", figures=False)
    case = load_case(evil, "multi_hop").model_copy(update={"figures": ()})
    path = evil / "data/runs/elegans/multi_hop/prompts.parquet"
    prompts = read_table(path, "prompts")
    prompts[["text", "answer", "top1"]] = hostile
    write_table(path, prompts, "prompts")
    (evil / "experiments/multi_hop/README.md").write_text(f"# x\n\n{hostile}\n\n`{hostile}`\n\n## {hostile}\n")
    made = report.case_page(evil, load_config(evil / "config.yaml"), "elegans", case)
    assert "<script>alert" not in made
    assert all(made.count(tag) == page.count(tag) for tag in ("<script", "</script"))
    assert made.count("&lt;script&gt;") > 5 and "This case names no figures." in made
    Reader(made)


def test_no_number_in_the_templates_is_typed_by_hand():
    for path in pages.TEMPLATES.glob("*.j2"):
        text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|<[^>]*>|&\w+;", " ", path.read_text(encoding="utf-8"), flags=re.S)
        assert re.findall(r"\d+", text) == [], path.name


def test_the_same_inputs_are_the_same_page(page, root):
    assert report.case_page(root, load_config(root / "config.yaml"), "elegans", load_case(root, "multi_hop")) == page


def test_the_query_of_a_page_gives_the_numbers_of_its_picture(page, root, monkeypatch):
    """The Python that the page shows for a part, run as it stands, selects the rows whose means are effect and control."""
    monkeypatch.chdir(root)
    parts = read_table(root / "data/runs/elegans/parts.parquet", "parts").set_index(["claim", "part"])
    blocks = re.findall(
        r"The rows behind “([^”]+)”.*?claim <code>([^<]+)</code>.*?<pre[^>]*><code>(.*?)</code>", page, re.S
    )
    assert len(blocks) == 3
    for part, claim, code in blocks:
        *lines, last = ast.parse(html.unescape(code)).body
        seen: dict = {}
        exec(compile(ast.Module(lines, []), "page", "exec"), seen)
        rows = eval(compile(ast.Expression(last.value), "page", "eval"), seen)
        means = rows.groupby(["arm", "cluster", "item"])["value"].mean().groupby(["arm", "cluster"]).mean()
        assert means["effect"].mean() == pytest.approx(parts.loc[(claim, part), "effect"])
        assert means["match"].mean() == pytest.approx(parts.loc[(claim, part), "control_mean"])


def test_index_lists_every_claim_of_every_model(root, page):
    (root / "reports/elegans/multi_hop.html").write_text(page, encoding="utf-8")
    made = index_page.index_page(root, load_config(root / "config.yaml"))
    reader = Reader(made)
    wanted = {f"elegans/multi_hop.html#claim-multihop-{i}" for i in (7, 2, 8)}
    assert {link for link in reader.links if "#claim" in link} == wanted
    assert "elegans/multi_hop.html" in reader.links and "elegans is not Claude 3.5 Haiku" in reader.words
    assert len(reader.ids) == len(set(reader.ids))
    inner = {link.removeprefix("#") for link in reader.links if link.startswith("#")}
    assert inner <= set(reader.ids)


def test_what_pages_lead_to_is_written_or_is_in_the_checkout(root, page):
    """So that nobody looks for a page that has moved: pages of models and cases, texts beside the index, and their links in turn."""

    def outward(made):
        found = {link.partition("#")[0] for link in Reader(made).links}
        return {link for link in found if link and not re.match("https?:|data:", link)}

    texts = {f"{name}.html" for name in TEXTS}
    own = {"steer.html", "atlas.html", "lab.html", "multi_hop_prompts.csv", "../index.html"}
    assert outward(page) <= own | {f"../{name}" for name in texts}
    (root / "reports/elegans/multi_hop.html").write_text(page, encoding="utf-8")
    assert outward(index_page.index_page(root, load_config(root / "config.yaml"))) == texts | {"elegans/multi_hop.html"}
    made = pages.text_pages(root)
    assert {f"{name}.html" for name in made} == texts and "prompts.csv" in made["add_a_prompt"]
    for text in made.values():
        assert "&lt;!--" not in text and "<p>!" not in text
        for link in outward(text) - texts - {"index.html"}:
            assert (root / "reports" / link).resolve().is_file(), link


def test_the_page_of_a_claim_that_was_computed_anew_needs_no_other_page(root):
    case, tables = load_case(root, "multi_hop"), read_tables(root / "data/runs/elegans/multi_hop")
    run, claims = root / "data/runs/elegans", load_claims(root, "multi_hop")
    parts, clusters = (read_table(run / f"{name}.parquet", name) for name in ("parts", "clusters"))
    verdicts = read_table(root / "reports/elegans/verdicts.csv", "verdicts").set_index("claim")
    subject = Subject("elegans", case, tables, parts, clusters, family(parts), StatisticsConfig(), folder=".")
    for claim in claims:
        made = report.claim_page(subject, claim, verdicts.loc[claim.id], "It <agrees>.", {"seed": "0"})
        reader = Reader(made)
        assert wording.powers(verdicts.loc[claim.id, "reason"]) in reader.words and "It <agrees>." in reader.words
        inner = {link.removeprefix("#") for link in reader.links if link.startswith("#")}
        assert inner <= set(reader.ids) and "data/runs" not in made
        beside = {link for link in reader.links if not link.startswith(("#", "https:"))}
        assert beside == {"prompts.csv", *(f"{name}.parquet" for name in checking.MEASURED)} <= {*checking.FILES}
    assert "pandas.read_parquet(&#34;evidence.parquet&#34;)" in report.claim_page(
        subject, claims[0], verdicts.loc[claims[0].id], "", {}
    )


def test_weights_that_had_been_quantised_are_named_on_the_page(page, tmp_path):
    fresh = write_repository(tmp_path / "quantised", figures=False)
    manifest = fresh / "data/runs/elegans/load.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"quantised": "dequantised from <x>.gguf (1 Q4_1)"})
    )
    case = load_case(fresh, "multi_hop").model_copy(update={"figures": ()})
    told = report.case_page(fresh, load_config(fresh / "config.yaml"), "elegans", case)
    assert "Its weights are dequantised from &lt;x&gt;.gguf (1 Q4_1)." in told and "dequantised" not in page


def test_what_is_missing_is_named(root, tmp_path):
    config, case = load_config(root / "config.yaml"), load_case(root, "multi_hop")
    with pytest.raises(InputError, match="load.json: no such file"):
        report.case_page(root, config, "gemma", case)
    with pytest.raises(InputError, match="pie.svg: no such figure. Make it with `biology draw`"):
        report.case_page(root, config, "elegans", case.model_copy(update={"figures": ("pie",)}))
    fresh = write_repository(tmp_path / "fresh", figures=False)
    path = fresh / "reports/elegans/verdicts.csv"
    write_table(path, read_table(path, "verdicts").iloc[1:], "verdicts")
    with pytest.raises(InputError, match="claim 'multihop-7' of case 'multi_hop' has no verdict on 'elegans'"):
        report.case_page(fresh, config, "elegans", load_case(fresh, "multi_hop").model_copy(update={"figures": ()}))


@pytest.mark.parametrize(
    "value, text",
    [
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (np.nan, "–"),
        (3e-05, "3×10⁻⁵"),
        (-4.12e-07, "−4.12×10⁻⁷"),
        (9120, "9,120"),
        (0, "0"),
        (1234567.8, "1,234,568"),
    ],
)
def test_numbers_in_print(value, text):
    assert wording.number(value) == text


def test_what_a_reader_meets_has_no_name_of_a_table():
    assert (
        wording.powers("is 6.17e-07 [-1.2e+05, 0.3]") == "is 6.17×10⁻⁷ [-1.2×10⁵, 0.3]"
        and wording.powers("1e5 #3e-2b") == "1e5 #3e-2b"
    )
    assert wording.called("per_layer jumprelu, shuffled") == "per-layer JumpReLU transcoders, shuffled"
    assert wording.called("neurons, 32 at a token") == "neurons, 32 at a token"


def test_fractions_in_print():
    assert [wording.percent(x) for x in (0.0, 0.0123, 0.5, 0.987, 1.0)] == ["0%", "1.2%", "50%", "98.7%", "100%"]


def test_beside_a_verdict_it_is_said_which_part_carries_the_variable(root, page, tmp_path):
    """Of the supernodes that the claim's experiments hold; nothing where no site was taken apart."""
    again = shutil.copytree(root, tmp_path / "repository")
    case = load_case(again, "multi_hop")
    asked = {claim.id: [part.experiment for part in claim.parts] for claim in load_claims(again, "multi_hop")}
    held = case.experiments["swap_state"].held[0]
    free = next(name for name in case.supernodes if not any(name in held_by(case, one) for one in asked.values()))
    rows = [
        {
            "case": "multi_hop", "supernode": name, "position": "last", "layers": "0-1", "arm": arm, "accuracy": share,
            "low": 0.3, "high": 1.0, "n": 40, "clusters": 9, "number_share": "", "activity_share": "", "fault": "spread",
            "certain": 1.0,
        }
        for name in (held, free)
        for arm, share in {"mlp": 1.0, "mlp_frozen": 1.0, "features": 0.96, "members": 0.4, "others": 0.6}.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(again / "reports/elegans/site_parts.csv", index=False)
    made = report.case_page(again, load_config(again / "config.yaml"), "elegans", case)
    sections = re.findall(r'<section class="claim" aria-labelledby="claim-([^"]+)">(.*?)</section>', made, re.S)
    said = (
        "all features there 96.0%; the members 40%; the other features 60%. The variable is spread over more features"
    )
    told = {claim: " ".join(text.split()).count(said) for claim, text in sections}
    assert told["multihop-7"] == 1 and told == {claim: int(held in held_by(case, asked[claim])) for claim in told}
    assert "Site of" not in page


def test_a_page_that_would_be_too_large_has_smaller_graphs(root, page, monkeypatch):
    monkeypatch.setattr(report, "LINKS", (12_000, 3))
    config, case = load_config(root / "config.yaml"), load_case(root, "multi_hop")
    assert report.case_page(root, config, "elegans", case) == page and "the most influential of" not in page
    monkeypatch.setattr(report, "MOST_BYTES", len(page.encode()) - 1)
    smaller = report.case_page(root, config, "elegans", case)
    assert "the most influential of" in smaller
