"""The same tables are the same bytes, any token prints, and the layout of a graph hides nothing."""

import csv
import itertools
import json
import re
import warnings
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from multi_hop_tables import CASE, TOKENS, evidence_tables, fidelity_table, graph_tables, panel_tables

from biology.cases.case import load_case, titles
from biology.figures.case_figures import FIGURES, draw
from biology.figures.drawing import STYLE, caption, label, printable, register_fonts, styled, text_width
from biology.figures.figure_data import ARM
from biology.figures.graph_arrows import points
from biology.figures.graph_chains import strongest_chains
from biology.figures.graph_layout import layout, node, repeated, rows, spread, strongest_edges, with_share
from biology.records import InputError
from biology.schemas import ARMS

DATA = Path(__file__).parents[1] / "data"
ODD = [
    "<bos>",
    "$x_1^2$",
    "\\frac{1}{2}",
    "a_b",
    "100%",
    "的",
    "反义词",
    "Привет",
    "größer",
    "\n",
    "\t",
    "▁the",
    "Ġis",
    "«»",
]
ODD += [" Austin", "  ", "", "ł", "日本", "한국어", "→", "&amp;", "</script>", '"', "\u200b", "\U0001f600", "\x07"]


@pytest.fixture(scope="module")
def tables():
    return graph_tables() | panel_tables() | evidence_and_prompts() | fidelity_table()


def evidence_and_prompts():
    made = evidence_tables()
    shown = graph_tables()["prompts"]
    prompts = pd.concat([shown.assign(relation="capital"), made["prompts"].assign(tokens="[]")], ignore_index=True)
    return {"prompts": prompts, "evidence": made["evidence"], "parts": made["parts"]}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("case")
    (root / "experiments/multi_hop").mkdir(parents=True)
    (root / "experiments/multi_hop/case.yaml").write_text(CASE)
    return load_case(root, "multi_hop")


# bytes and text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_tables_are_the_same_bytes_and_nothing_is_warned_of(name, tables, case):
    matplotlib.rcParams["font.size"] = 20.0  # whatever the user's own settings are
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a missing glyph is a warning
            first = draw(name, tables, case)
        assert matplotlib.rcParams["font.size"] == 20.0
    finally:
        matplotlib.rcdefaults()
    assert draw(name, tables, case) == first
    root = ElementTree.fromstring(first["svg"])
    assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # glyphs are paths: no font is needed to read it
    assert b"<dc:date>" not in first["svg"] and b"matplotlib.org/" not in re.sub(rb"xmlns.*?>", b"", first["svg"])
    assert first["png"].startswith(b"\x89PNG") and b"Software" not in first["png"]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_shows(name, tables, case):
    with styled():
        title, text = caption(FIGURES[name](tables, None, case))
    assert title and text.endswith(".") and "\n" not in text


def titled(name, tables, case) -> str:
    kind, _, subject = name.partition("-")
    with styled():
        return caption(FIGURES[kind](tables, subject or None, case))[0]


def planted(tables, column: str, value: float, **where) -> dict:
    """The tables with a value put into the evidence, where columns have the given levels."""
    evidence = tables["evidence"].copy()
    chosen = np.all([evidence[name] == level for name, level in where.items()], axis=0)
    assert chosen.any()
    evidence.loc[chosen, column] = value
    return tables | {"evidence": evidence}


def test_titles_say_what_was_planted(tables, case):
    """The effect and, beside it, its control; other numbers make another title."""
    for effect, match in ((0.75, 0.25), (0.5, 0.125)):
        swap = {"experiment": "swap_state", "outcome": "donor_top1"}
        found = planted(planted(tables, "value", effect, arm="effect", **swap), "value", match, arm="match", **swap)
        said = titled("swap_panel-swap_state", found, case)
        assert f"swap state {effect:.0%}, matched random features {match:.0%}" in said
        path = {"outcome": next(one for one in tables["evidence"]["outcome"] if "share" in one)}
        found = planted(planted(tables, "value", effect, arm="effect", **path), "value", match, arm="match", **path)
        said = titled("path_share", found, case)
        assert f"{path['outcome'].replace('_', ' ')} {effect:.0%}, matched random features {match:.0%}" in said.lower()
        dose = {"experiment": "swap_state", "outcome": "donor_top1"}
        found = planted(planted(tables, "value", effect, arm="effect", **dose), "value", match, arm="match", **dose)
        said = titled("dose_response-swap_state", found, case)
        assert said == f"Swap state, donor top1 at M = 4: {effect:.0%}, matched random features {match:.0%}"
    other = tables["evidence"][tables["evidence"]["experiment"] == "swap_state"].assign(
        experiment="swap", outcome="odds"
    )
    both = tables | {"evidence": pd.concat([tables["evidence"], other.assign(value=2.5)])}
    said = titled("swap_panel", both, case)
    assert "Donor top1: swap state " in said and said.endswith("; odds: swap 2.5, matched random features 2.5")
    fidelity = tables["fidelity"].copy()
    fidelity.loc[(fidelity["metric"] == "fvu") & (fidelity["behaviour"] == "all"), "value"] = 0.123
    said = titled("fidelity", tables | {"fidelity": fidelity}, case)
    assert said.startswith("Transcoders leave 12.3% of the variance unexplained")


def test_the_title_of_a_panel_is_its_largest_effect(tables, case):
    panel = tables["panel"].copy()
    outputs = panel[panel["kind"] == "probability"]
    token = outputs.loc[outputs["clean"].idxmax(), "supernode_or_token"]
    here = (panel["kind"] == "probability") & (panel["supernode_or_token"] == token)
    first = panel.loc[here, "experiment"].iloc[0]
    panel.loc[here, "value"] = np.where(panel.loc[here, "experiment"] == first, 0.03, 0.5)
    said = titled("inhibition_panel", tables | {"panel": panel}, case)
    assert (
        first.replace("_", " ") in said
        and f"“{token.strip()}”" in said.replace(token, token.strip())
        and "to 3% (matched random features: to " in said
    )


@pytest.mark.parametrize("worth", [0.0, 0.05, 1.0])
def test_the_title_of_a_panel_is_computed_from_all_its_rows(tables, case, worth):
    """No claim rests on most of its interventions; each is drawn, and each counts."""
    panel = tables["panel"].copy()
    outputs = panel[panel["kind"] == "probability"]
    token = outputs.loc[outputs["clean"].idxmax(), "supernode_or_token"]
    here = (panel["kind"] == "probability") & (panel["supernode_or_token"] == token)
    names = list(panel.loc[here, "experiment"])
    assert len(names) > 3 and "swap_state" not in names[2:]  # a claim rests on that one alone
    panel.loc[here, "control"] = 0.9
    panel.loc[here, "value"] = [0.9 - worth * n / len(names) for n in range(len(names))]
    said = titled("inhibition_panel", tables | {"panel": panel}, case)
    rows = panel[here].assign(beyond=panel["control"] - panel["value"])
    best = rows.loc[rows["beyond"].idxmax()]
    assert f"“{best['experiment'].replace('_', ' ')}”" in said
    assert f"to {best['value']:.0%} (matched random features: to {best['control']:.0%})" in said
    rank = "the most beyond its control" if worth else "not beyond its control, as none"
    assert said.endswith(f"{rank} of {len(names)} interventions")


def test_a_panel_holds_the_same_prompt_with_other_donors(tables, case):
    """The paper's figure: one prompt, Texas exchanged for one place after another."""
    panel, prompts = tables["panel"], tables["prompts"]
    item = panel["item"].iloc[0]
    same = prompts[prompts["item"] == item].assign(item="again")
    assert len(same)
    prompts = pd.concat([prompts, same])
    last = panel["experiment"].iloc[-1]
    again = panel[panel["experiment"] == last].assign(item="again", value=0.0)
    one, two = (
        draw("inhibition_panel", tables | {"panel": found, "prompts": prompts}, case, forms=("svg",))["svg"]
        for found in (panel, pd.concat([panel, again]))
    )
    height = [float(re.search(rb'height="([0-9.]+)pt"', svg)[1]) for svg in (one, two)]
    assert height[1] > height[0] + 20


def test_the_title_of_a_graph_is_the_strongest_supernode(tables, case):
    said = titled("supernode_graph", tables, case)
    name, share = re.match(r"“(.*)” makes (\d+)% of the direct effects on", said).groups()
    made = arranged(case)
    called = {box.name: box.text for box in made.boxes}
    output = next(box.name for box in made.boxes if box.kind == "logit")
    into = {called[a.source]: a.share for a in made.arrows if a.target == output and not a.source.startswith("token:")}
    assert max(into, key=lambda one: abs(into[one])) == name and f"{into[name]:.0%}" == f"{share}%"


def test_fonts_are_those_of_the_pinned_packages():
    assert [path.parent.parent.name for path in register_fonts()[:2]] == ["font_source_sans_pro", "notojp_matplotlib"]
    assert "mpl-data" in str(register_fonts()[2])
    families = re.search(r"^font.family: (.*)$", STYLE.read_text(encoding="utf-8"), re.M)
    assert families and all(name.strip().startswith("Biology ") for name in families[1].split(","))


def test_labels_show_what_cannot_be_seen():
    assert label("\n") == "↵" and label("\t") == "⇥" and label(" Austin") == "Austin" and label("  ") == "␣␣"
    assert label("   x") == "␣␣␣x" and label("a b") == "a b" and label("\u200b") == "\\u200b"
    assert label("\U0001f600\x07") in ("\\u1f600\\u0007", "\U0001f600\\u0007") and label("$x_1$") == "$x_1$"
    for token in ODD:
        assert {ord(character) for character in label(token)} <= printable()


def test_simplified_chinese_of_the_prompts_is_covered():
    assert {ord(character) for character in "的反义词是小大热冷高低"} <= printable()
    for path in sorted((DATA / "words").glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            for row in csv.reader(file):
                assert all(label(cell.strip()) == cell.strip() for cell in row if cell.strip()), (path.name, row)


@pytest.mark.parametrize("name", ["supernode_graph", "inhibition_panel"])
def test_any_token_prints_in_every_place(name, tables, case):
    names = list(dict.fromkeys(tables["panel"]["supernode_or_token"]))
    odd = {name: name + "".join(ODD[3 * i % len(ODD) :][:3]) for i, name in enumerate(names)}
    panel = tables["panel"].assign(supernode_or_token=tables["panel"]["supernode_or_token"].map(odd))
    prompts = tables["prompts"].assign(top1="的$_{", answer="的$_{")
    prompts.loc[prompts["item"] == "texas", "tokens"] = json.dumps([*TOKENS[:9], *ODD])
    edges = tables["edges"].copy()
    edges["target"] = edges["target"].replace("logit:Austin", "logit:的$_{")
    edges["source"] = edges["source"].replace({"token:Dal@9": "token:$@_\n@9", "texas": "$texas_的$"})
    edges["target"] = edges["target"].replace("texas", "$texas_的$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw(name, {**tables, "panel": panel, "prompts": prompts, "edges": edges}, case, forms=("svg",))
    assert len(drawn["svg"]) > 10_000


def test_any_factor_prints_beside_the_rates(tables, case):
    prompts = tables["prompts"].assign(relation=tables["prompts"]["relation"].replace("flower", "$鸟_{"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("swap_panel", "dose_response", "path_share"):
            draw(name, {**tables, "prompts": prompts}, case, forms=("svg",))


def test_the_style_file_restyles_every_figure(tables, case, restyled):
    for name in FIGURES:
        assert b"#117733" in restyled(draw(name, tables, case, forms=("svg",)))


# what is drawn ------------------------------------------------------------------------------------------------------


def test_every_arm_has_a_look():
    assert set(ARM) == set(ARMS) and len({(tint, marker) for _, tint, marker, _ in ARM.values()}) == len(ARMS)


def test_what_cannot_be_drawn_is_named(tables, case):
    with pytest.raises(InputError, match="unknown figure 'pie_chart'. Figures: supernode_graph"):
        draw("pie_chart", tables, case)
    with pytest.raises(InputError, match="no rows for prompt 'ohio'. Prompts with rows: texas"):
        draw("supernode_graph-ohio", tables, case)
    with pytest.raises(InputError, match="no fitting held-out rows"):
        draw("swap_panel-elsewhere", tables, case)
    with pytest.raises(InputError, match="table 'fidelity' has no measure"):
        draw("fidelity", {"fidelity": tables["fidelity"].iloc[:0]}, case)
    shapes = partial(draw, tables=tables, forms=("svg",))
    assert shapes("supernode_graph-texas", case=case) == shapes("supernode_graph", case=case)
    assert shapes("swap_panel-swap_state")["svg"] and shapes("path_share-paths", case=case)["svg"]


def test_figures_do_without_verdicts(tables, case):
    for name in ("inhibition_panel", "swap_panel", "dose_response"):
        without = {key: frame for key, frame in tables.items() if key != "parts"}
        assert draw(name, without, case, forms=("svg",))["svg"]


def test_exploratory_and_wrong_answers_are_left_out_of_the_rates(tables, case):
    odd = tables["prompts"]["item"].str.startswith("heldout-00")
    gone = tables["evidence"]["item"].str.startswith("heldout-00")
    without = {**tables, "prompts": tables["prompts"][~odd], "evidence": tables["evidence"][~gone]}
    expected = draw("swap_panel", without, case, forms=("svg",))
    for change in ({"split": "exploratory"}, {"role": "select"}, {"correct": False}):
        prompts = tables["prompts"].copy()
        prompts.loc[odd, list(change)] = list(change.values())
        assert draw("swap_panel", {**tables, "prompts": prompts}, case, forms=("svg",)) == expected


# layout -------------------------------------------------------------------------------------------------------------


def arranged(case=None, drop=()):
    made = graph_tables()
    edges = made["edges"][~made["edges"]["source"].isin(drop) & ~made["edges"]["target"].isin(drop)]
    with styled():
        return layout(
            edges,
            made["supernodes"],
            TOKENS,
            {"Austin": 0.99, "Texas": 0.003},
            lambda text, role: text_width(text, 8.5),
            titles(case, "texas"),
        )


def test_names_of_nodes():
    assert node("token:Dallas@9") == ("token", "Dallas", 9) and node("token:a@b:c@10") == ("token", "a@b:c", 10)
    assert node("logit:Austin") == ("logit", "Austin", -1) and node("logit::") == ("logit", ":", -1)
    assert node("say_a_capital")[0] == "supernode" and node("error")[0] == node("bias")[0] == "undrawn"


def test_shares_add_up_to_one_and_keep_their_sign():
    edges = with_share(graph_tables()["edges"])
    assert np.allclose(edges["share"].abs().groupby(edges["target"]).sum(), 1)
    assert (np.sign(edges["share"]) == np.sign(edges["direct"])).all()


def test_no_drawn_box_hangs_loose():
    edges = strongest_edges(with_share(graph_tables()["edges"]), least=0.9, most=1)
    for name in ("capital", "state", "texas", "say_a_capital", "say_austin"):
        assert (edges["target"] == name).any() and (edges["source"] == name).any()


def test_boxes_side_by_side_keep_their_distance_and_their_wish():
    assert spread([1.0, 5.0], [1.0, 1.0], 0.0, 10.0, gap=0.2) == [1.0, 5.0]
    assert spread([5.0, 5.0], [1.0, 1.0], 0.0, 10.0, gap=0.2) == pytest.approx([4.4, 5.6])
    assert spread([9.9, 2.0, 9.9], [1.0] * 3, 0.0, 10.0, gap=0.2) == pytest.approx([8.3, 2.0, 9.5])
    placed = spread([3.0, 1.0, 3.1, 3.2], [1.0, 2.0, 1.0, 1.0], 0.0, 9.0, gap=0.1)
    assert min(b - a for a, b in itertools.pairwise(sorted(placed))) >= 1.1 - 1e-9


def test_a_row_is_above_everything_that_feeds_it():
    edges = pd.DataFrame({"source": ["a", "b", "c", "a"], "target": ["b", "c", "a", "d"]})
    assert rows(["a", "b", "c", "d"], {"a": 0.0, "b": 1.0, "c": 2.0, "d": 0.5}, edges) == {
        "a": 0,
        "b": 1,
        "c": 2,
        "d": 1,
    }


def test_tokens_stand_in_order_below_and_outputs_on_top():
    boxes = arranged().boxes
    tokens = [box for box in boxes if box.kind == "token"]
    assert [box.text for box in tokens] == TOKENS and [box.x for box in tokens] == sorted(box.x for box in tokens)
    assert [box.text for box in boxes if box.kind == "logit"] == ["Austin"]  # improbable outputs are not drawn
    depth = {box.text: box.y for box in boxes}
    assert depth["Dal"] < depth["capital"] == depth["state"] < depth["texas"] < depth["say austin"] < depth["Austin"]


def test_no_two_boxes_overlap_and_no_arrow_crosses_a_box():
    for drop in [(), ("state",), ("say_austin",), ("texas", "capital")]:
        found = arranged(drop=drop)
        for a, b in itertools.combinations(found.boxes, 2):
            assert abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= (a.height + b.height) / 2
        for arrow, box in itertools.product(found.arrows, found.boxes):
            if box.name not in (arrow.source, arrow.target):
                away = np.abs(points(arrow.curve, np.linspace(0.05, 0.95, 60)) - [box.x, box.y])
                assert (away > [box.width / 2, box.height / 2]).any(1).all()
        for box in found.boxes:
            assert 0 <= box.x - box.width / 2 and box.x + box.width / 2 <= found.width + 1e-9


def test_arrows_carry_the_sign_and_the_share_of_the_edge():
    shares = {(arrow.source, arrow.target): arrow.share for arrow in arranged().arrows}
    assert shares["say_austin", "logit:Austin"] == pytest.approx(5.2 / 8.9)
    assert shares["@9", "texas"] == pytest.approx(2.0 / 7.8)
    assert not {"other", "error", "bias"} & {name for pair in shares for name in pair}


def test_supernodes_are_called_by_their_label(case):
    assert titles(case, "texas") == {"texas": "Texas", "say_a_capital": "say a capital", "say_austin": "say Austin"}
    assert titles(case, "heldout-1") == {} == titles(None, "texas")
    assert "Texas" in [box.text for box in arranged(case).boxes]
    wrong = case.supernodes["texas"].model_copy(update={"label": "{river}"})
    with pytest.raises(InputError, match="'river', which prompt 'texas' lacks"):
        titles(case.model_copy(update={"supernodes": {"texas": wrong}}), "texas")


def test_strongest_paths_by_hand():
    tables = graph_tables()
    found = lambda output, count: strongest_chains(tables["edges"], tables["supernodes"], "texas", output, count)  # noqa: E731
    chains = found(" Austin", 3)
    strongest = 2.6 / 7.8 * 3.4 / 8.1 * 5.2 / 8.9
    assert chains[0].nodes == ("token:##las@10", "texas", "say_austin", "logit:Austin") and chains[0].sign == 1
    assert chains[0].strength == pytest.approx(strongest)
    texas = found("Texas", 50)
    assert {chain.nodes[-1] for chain in texas} == {"logit:Texas"} and -1 in {chain.sign for chain in texas}
    assert strongest_chains(tables["edges"], tables["supernodes"], "ohio", "Austin", 3) == []


def test_a_supernode_that_repeats_another_is_drawn_once():
    members = graph_tables()["supernodes"]
    assert repeated(members) == []
    copy = members[members["supernode"] == "texas"].assign(supernode="container")
    assert repeated(pd.concat([members, copy])) == ["container"]
    assert repeated(pd.concat([members, copy.iloc[:3]])) == ["container"]
    assert repeated(pd.concat([members, copy.assign(feature=copy["feature"] + [0, 0, 9, 9])])) == []
