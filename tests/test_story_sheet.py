"""A case on one sheet: what is drawn is what the tables and verdicts say, legibly."""

import pytest
from multi_hop_tables import graph_tables, panel_tables, write_repository

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.figures.drawing import caption, styled
from biology.findings.story import story
from biology.findings.story_sheet import sheet
from biology.wording import MARKS

SMALLEST = 7.0  # points in print


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"), figures=False)


def drawn(root, verdict="replicated", **changes):
    case, claims = load_case(root, "multi_hop"), load_claims(root, "multi_hop")
    told = story(case, graph_tables() | panel_tables() | changes)
    with styled():
        figure = sheet("multi hop", "tiny", told, claims, {claim.id: verdict for claim in claims})
    return figure, told, claims, [text.get_text() for text in figure.axes[0].texts]


def test_arrows_intervention_and_verdicts_are_those_of_the_tables(root):
    figure, told, claims, texts = drawn(root)
    shares = [text for text in texts if text.endswith("%") and text[0] in "+−"]
    assert len(shares) == len(told.shares) and "+42%" in shares
    for key in ("before", "after", "control"):
        assert any(told.shown[key][0] in text for text in texts)
    assert texts.count("✓") == len(claims) and "✗" not in texts
    assert caption(figure)[0] == f"Multi hop: tiny replicates {len(claims)} of {len(claims)} claims"


@pytest.mark.parametrize("verdict", MARKS)
def test_every_verdict_has_its_sign(root, verdict):
    *_, claims, texts = drawn(root, verdict)
    assert texts.count(MARKS[verdict]) == len(claims)


def test_what_was_not_found_is_dashed(root):
    there = graph_tables()["supernodes"]
    whole, part = drawn(root)[0], drawn(root, supernodes=there[there["supernode"] != "capital"])[0]
    dashed = [
        sum(patch.get_linestyle() in ("--", "dashed") for patch in figure.axes[0].patches) for figure in (whole, part)
    ]
    assert dashed == [0, 1]


def test_every_line_can_be_read_in_print_and_stays_on_the_sheet(root):
    figure, *_ = drawn(root)
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= SMALLEST
    frame = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 and frame.y0 - 1 <= box.y0, text.get_text()
