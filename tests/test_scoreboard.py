"""Verdicts on several models, side by side: what is held against what, and what a reader is told beside each."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from multi_hop_tables import write_repository
from page_reader import Reader

from biology.cases.case import load_case
from biology.cases.claim_file import Claim, load_claims
from biology.config import load_config
from biology.records import InputError
from biology.report import case_report as report
from biology.report import index_page, scoreboard
from biology.statistics import METHOD
from biology.tables import read_table, write_table


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


def test_seeds_are_counted_and_controls_are_shown_as_such(root, tmp_path):
    """Two more seeds of the same model, one of which disagrees on one claim, and a control whose numbers stand in the index."""
    fresh = write_repository(tmp_path / "seeds", figures=False)
    text = "models:\n  elegans: {path: data/models, transcoders: data/models}\n"
    text += "  nothing: {path: data/models, transcoders: data/models, shuffled: 0, role: random, of: elegans}\n"
    for seed in (1, 2):
        entry = f"{{path: data/models, transcoders: data/models, seed: {seed}, role: seed, of: elegans}}"
        text += f"  elegans-seed{seed}: {entry}\n"
    (fresh / "config.yaml").write_text(text)
    first = read_table(fresh / "reports/elegans/verdicts.csv", "verdicts")
    for name, changes in {
        "elegans-seed1": {"seed": 1}, "elegans-seed2": {"seed": 2}, "nothing": {"transcoders": "per_layer relu, shuffled"},
    }.items():  # fmt: skip
        other = first.assign(model=name, **changes)
        if name == "elegans-seed2":
            other.loc[other["claim"] == "multihop-7", "verdict"] = "inconclusive"
        write_table(fresh / "reports" / name / "verdicts.csv", other, "verdicts")
    config = load_config(fresh / "config.yaml")
    board = scoreboard.columns(fresh, config)
    assert [(column.name, column.role) for column in board] == [
        ("elegans", "model"), ("elegans-seed1", "seed"), ("elegans-seed2", "seed"), ("nothing", "random"),
    ]  # fmt: skip
    same = scoreboard.seeds(board)
    assert scoreboard.agreement(same, "multi_hop", "multihop-7") == {"agree": 2, "of": 3}
    assert scoreboard.agreement(same[:1], "multi_hop", "multihop-7") is None
    made = index_page.index_page(fresh, config)
    words, links = Reader(made).words, Reader(made).links
    assert "2 of 3" in words and "3 of 3" in words and "control: transcoders without meaning" in words
    assert "#nothing-multihop-7" in links and "nothing/multi_hop.html#claim-multihop-7" not in links


def test_what_a_model_cannot_be_asked_is_said_of_its_relatives(root, tmp_path):
    """The relative's verdict on the claim that its model cannot be asked is shown, and none of its others."""
    fresh = write_repository(tmp_path / "relatives", figures=False)
    text = "models:\n  elegans: {path: data/models, transcoders: data/models}\n"
    (fresh / "config.yaml").write_text(text + "  wide: {path: wide, transcoders: wide, role: size, of: elegans}\n")
    first = read_table(fresh / "reports/elegans/verdicts.csv", "verdicts")
    untestable = first.loc[first["verdict"] == "untestable", "claim"].tolist()
    assert len(untestable) == 1
    board = scoreboard.columns(fresh, load_config(fresh / "config.yaml"))
    assert scoreboard.related_models(board) == ""
    write_table(fresh / "reports/wide/verdicts.csv", first.assign(model="wide", verdict="replicated"), "verdicts")
    board = scoreboard.columns(fresh, load_config(fresh / "config.yaml"))
    _, _, *rows = scoreboard.related_models(board).splitlines()
    assert (
        len(rows) == 1
        and rows[0].startswith(f"| [{untestable[0]}](../experiments/multi_hop/claims.yaml) | wide | ")
        and "✓ replicated" in rows[0]
    )
    assert rows[0] in scoreboard.full_scoreboard(fresh, load_config(fresh / "config.yaml"))


def test_the_index_links_no_page_that_is_not_written(root):
    config, page = load_config(root / "config.yaml"), root / "reports/elegans/multi_hop.html"
    page.unlink(missing_ok=True)
    assert "elegans/multi_hop.html" not in index_page.index_page(root, config)
    page.write_text("a page", encoding="utf-8")
    assert 'href="elegans/multi_hop.html' in index_page.index_page(root, config)


def test_where_two_transcoder_sets_disagree_is_said(root, tmp_path):
    fresh = write_repository(tmp_path / "sets", figures=False)
    text = "models:\n"
    for name in ("elegans", "elegans-clt", "gemma"):
        text += f"  {name}: {{path: data/{'gemma' if name == 'gemma' else 'models'}, transcoders: data/{name}}}\n"
    (fresh / "config.yaml").write_text(text)
    first = read_table(fresh / "reports/elegans/verdicts.csv", "verdicts")
    other = first.assign(transcoders="cross_layer relu")
    other.loc[other["claim"] == "multihop-7", "verdict"] = "inconclusive"
    for name in ("elegans-clt", "gemma"):  # of gemma there is one set only
        write_table(fresh / "reports" / name / "verdicts.csv", other.assign(model=name), "verdicts")
    config = load_config(fresh / "config.yaml")
    found = scoreboard.differing(config, scoreboard.columns(fresh, config))
    assert [(a.name, b.name, claims) for a, b, claims in found] == [
        ("elegans", "elegans-clt", [("multi_hop", "multihop-7")])
    ]
    said = scoreboard.full_scoreboard(fresh, config)
    assert "1 of 3 verdicts differ" in said and "| multihop-7 | ✓ replicated | " in said
    words = Reader(index_page.index_page(fresh, config)).words
    assert words.count("transcoder sets disagree") == 1


def test_another_model_is_no_seed_unless_its_entry_says_so(root, tmp_path):
    """A model of one's own, grown with another seed and with transcoders of the same kind, is no witness about elegans."""
    fresh = write_repository(tmp_path / "others", figures=False)
    first = read_table(fresh / "reports/elegans/verdicts.csv", "verdicts")
    write_table(fresh / "reports/gemma/verdicts.csv", first.assign(model="gemma", seed=1), "verdicts")
    board = scoreboard.columns(fresh, load_config(fresh / "config.yaml"))
    assert [column.name for column in board] == ["elegans", "gemma"]
    assert [column.name for column in scoreboard.seeds(board)] == ["elegans"] and scoreboard.seeds([]) == []


def test_verdicts_of_an_earlier_rule_are_named_and_what_little_says_is_marked(root, tmp_path):
    """Beside what is judged now: a twin's verdicts by the rule before, on which a claim is replicated too."""
    fresh = write_repository(tmp_path / "rules", figures=False)
    text = "models:\n  elegans: {path: data/models, transcoders: data/models}\n"
    text += "  twin: {path: twin, transcoders: twin, role: twin, of: elegans, corpus: rote}\n"
    (fresh / "config.yaml").write_text(text)
    (fresh / "experiments/twins.csv").write_text("twin,claim,expected,why\nrote,multihop-2,not replicated,no bridge\n")
    config, path = load_config(fresh / "config.yaml"), fresh / "reports/twin/verdicts.csv"
    first = read_table(fresh / "reports/elegans/verdicts.csv", "verdicts")
    assert set(first["method"]) == {METHOD}
    write_table(path, first.assign(model="twin", method="percentile-1"), "verdicts")
    board = scoreboard.columns(fresh, config)
    note = "Judged by an earlier rule (percentile-1: "
    assert scoreboard.earlier(board[:1], {}) == ""
    assert scoreboard.earlier(board, {}).startswith(note) and scoreboard.earlier(board, {}).endswith("anew: twin.")
    index = Reader(index_page.index_page(fresh, config)).words
    verdicts = scoreboard.full_scoreboard(fresh, config)
    assert note in index and note in verdicts
    assert (
        "replicated, found on 0% of the prompts only, could not discriminate" in index
        and "rules are compared too: twin." in verdicts
    )
    row = {"found": 0.25, "claim": "multihop-2"}
    assert scoreboard.caveats(board[0], row, None) == ["found on 25% of the prompts only"]
    case = load_case(fresh, "multi_hop").model_copy(update={"figures": ()})
    words = Reader(report.case_page(fresh, config, "elegans", case)).words
    assert "Could it discriminate? No. It is replicated on twin, of which nothing had been said, too." in words


def test_scoreboard_replaces_its_block_and_nothing_else(root):
    config = load_config(root / "config.yaml")
    before = "# biology\n<!-- scoreboard -->\nthe last board\n<!-- /scoreboard -->\nafter\n"
    after = scoreboard.with_scoreboard(before, root, config)
    assert after.startswith("# biology\n<!-- scoreboard -->\n") and after.endswith("\n<!-- /scoreboard -->\nafter\n")
    assert "the last board" not in after and scoreboard.with_scoreboard(after, root, config) == after
    assert "| case | elegans |" in after
    assert "| [multi hop](experiments/multi_hop/README.md) | 1 ✓, 1 ✗, 1 – |" in after
    with pytest.raises(InputError, match="lacks the marks"):
        scoreboard.with_scoreboard("# biology\n", root, config)


def test_what_meaningless_transcoders_replicate_is_named():
    rows = [
        {
            "model": "nothing",
            "role": "random",
            "claim": claim,
            "verdict": verdict,
            "reference": reference,
            "as_expected": ok,
            "method": "percentile-1" if claim == "a-1" else METHOD,
            "reference_method": METHOD,
        }
        for claim, verdict, reference, ok in (
            ("a-1", "replicated", "replicated", False),
            ("a-2", "not replicated", "untestable", True),
        )
    ]
    judged = pd.DataFrame({"claim": ["a-1", "a-2", "a-3"], "verdict": ["replicated", "not replicated", "replicated"]})
    board = [scoreboard.Column("nothing", "random", "elegans", judged)]
    said = scoreboard.compared_models(pd.DataFrame(rows), board)
    assert "wherever they are replicated: a-1." in said
    assert "| 50% (0%) |" in said  # the second claim cannot be asked of its model
    assert "so that rules are compared too: nothing." in said
    alone = scoreboard.compared_models(pd.DataFrame(rows[1:]), board)
    assert "wherever they are replicated" not in alone and "rules are compared" not in alone
    assert said.split("\n")[2].endswith("| a-3 |")  # replicated, and nobody had said that it would not be


def test_a_claim_that_was_amended_after_a_verdict_explores_that_model(root):
    claims = {claim.id: claim for claim in load_claims(root, "multi_hop")}
    name, claim = next(iter(claims.items()))
    amendment = {"date": "2026-11-20", "reason": "seen on elegans", "previous": "0" * 64, "seen_on": ["elegans"]}
    changed = Claim.model_validate(claim.model_dump() | {"amended": amendment})
    column = scoreboard.columns(root, load_config(root / "config.yaml"))[0]
    assert column.name == "elegans" and changed.explores("elegans") and not changed.explores("elegans-seed1")

    def told(claim: Claim, column: scoreboard.Column) -> str:
        lines = scoreboard.full(column, {name: claim}, "{case}").split("\n")
        return next(line.split("**")[2] for line in lines if f"[{name}]" in line)

    anew = replace(column, verdicts=column.verdicts.assign(amendments=1))
    assert told(changed, column).startswith(", before the last amendment |")
    assert told(changed, anew).startswith(", exploratory |") and told(claim, column).startswith(" |")
    said = f"Judged before the claim was last amended, and still to be judged anew: elegans ({name})."
    assert scoreboard.earlier([column], {name: changed}) == said and scoreboard.earlier([anew], {name: changed}) == ""
    row = {"found": 1.0, "claim": name, "amendments": 0}
    assert scoreboard.caveats(column, row, changed)[-1] == "judged before the claim was last amended"
    assert scoreboard.caveats(column, row | {"amendments": 1}, changed) == scoreboard.caveats(column, row, claim)
    last = scoreboard.short([column], {"multi_hop": [changed]}).split("\n")[-1]
    replicated = column.by_claim["multi_hop", name]["verdict"] == "replicated"
    assert last.endswith(f"| {int(replicated)} | 0 | 1 |")


def test_exchanges_without_transcoders_stand_in_the_scoreboard(root, tmp_path):
    fresh = write_repository(tmp_path / "streams", figures=False)
    config = load_config(fresh / "config.yaml")
    assert scoreboard.mean_exchanges(fresh, config) == ""
    (fresh / "reports/elegans/streams.csv").write_text(
        f"case,stream,layer,n,rate,wrong,difference,low,high,method\nmulti_hop,place,1,500,0.9,0.1,0.8123,0.7,0.9,{METHOD}\n"
    )
    assert scoreboard.mean_exchanges(fresh, config).endswith("\n| elegans | 0.812 [0.7, 0.9] |")
    after = scoreboard.full_scoreboard(fresh, config)
    assert "|  | multi hop: place |" in after and "without any transcoder" in after


def test_the_full_scoreboard_has_every_number(root):
    made = scoreboard.full_scoreboard(root, load_config(root / "config.yaml"))
    rows = [line for line in made.splitlines() if line.startswith("| [multihop")]
    assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)\|", row)) == 11 for row in rows)
    assert "✓ **replicated**" in rows[0] and "&lt;capital&gt; &amp; nothing" in rows[0] and "untestable" in rows[2]
    assert "1 replicated, 1 not replicated, 1 untestable." in made
