"""Parts of a site add up exactly, the chain names the first link that loses the variable, and a miss says which it is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_transcoders
from toy_case import ITEMS, prompts_frame

from biology.cases.case import Case, load_case
from biology.cases.case_file import Paper, Prompt
from biology.cases.rules import SupernodeRule
from biology.figures.drawing import caption, styled
from biology.figures.site_parts_figure import figure
from biology.findings.faults import (
    FOUND_AT_FAULT,
    deciding_part,
    held_by,
    misses,
    parts_of_misses,
    site_sentences,
)
from biology.models.model import encode as tokens
from biology.supernodes.grouping import Finder
from biology.supernodes.site_parts import (
    ARMS,
    COLUMNS,
    FAULTS,
    HELD,
    KEPT,
    NOT_FOUND,
    NOT_MEASURED,
    SPREAD,
    certain,
    fault,
    held_live,
    site_writes,
)
from biology.supernodes.site_search import Exchange
from biology.transcoders.activations import cache_dense, cache_features
from biology.transcoders.transcoder_set import reconstruct_all

ROOT = Path(__file__).parents[1]
LAST = 1
"""Last layer of the site."""


def finder_of(model, transcoders):
    """The toy's prompts; members are the features that are also active at the end of the prompt `shown`."""
    frame = prompts_frame()
    case = Case(
        name="toy", folder=Path("toy"), paper=Paper(section="", url=""),
        prompts={"shown": Prompt(text=frame["text"][0], answer=frame["answer"][0])},
        supernodes={"own": SupernodeRule(active_on=("shown",), layers=(0, LAST))},
    )  # fmt: skip
    cache = cache_features(model, transcoders, [tokens(model, text) for text in frame["text"]])
    return Finder(model, case, frame, transcoders, cache)


@pytest.mark.parametrize(("kind", "skip"), [("per_layer", False), ("per_layer", True), ("cross_layer", False)])
def test_parts_are_exact(tiny_model, kind, skip):
    """Features and error add up to what the MLPs write, members and others to the features; each is what its name says, worked out
    from all activations and the error nodes."""
    model = tiny_model("llama")
    finder = finder_of(model, random_transcoders(model, kind=kind, skip=skip))
    made = [Exchange(base, tuple(donor % ITEMS + 1 for donor in (base, base + 1)), 0) for base in range(1, ITEMS + 1)]
    writes = site_writes(finder, "own", made, LAST)
    part = {arm: writes.of(arm) for arm in ARMS if arm != "mlp_found"}
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(part["features"] + part["error"], part["mlp"], **close)
    torch.testing.assert_close(part["members"] + part["others"], part["features"], **close)
    assert not part["nothing"].any() and all(part[arm].abs().max() > 1e-3 for arm in part if arm != "nothing")

    set_ = finder.transcoders
    dense = cache_dense(model, finder.ids, read_hook=set_.read_hook, write_hook=set_.write_hook)
    ends = dense.offsets[1:] - 1
    activations, rebuilt = reconstruct_all(set_, [dense.read[layer][ends] for layer in range(model.n_layers)])
    error = torch.stack([dense.write[layer][ends] - rebuilt[layer] for layer in range(LAST + 1)])
    if not skip:  # a skip connection is no feature
        expected = [error[:, list(one.donors)].mean(1) - error[:, one.base] for one in made]
        torch.testing.assert_close(part["error"], torch.stack(expected, 1), **close)
    shown = [layer[0] > 0 for layer in activations]
    size, mine = np.zeros(2), np.zeros(2)
    for row, one in enumerate(made):
        change = torch.zeros(LAST + 1, model.d_model)
        for source in range(LAST + 1):
            member = (activations[source] > 0) & shown[source]
            rows = set_.layers[source].decoders()[:, : LAST + 1 - source]
            length = rows.flatten(1).norm(dim=1)
            for donor in one.donors:
                either = member[one.base] | member[donor]
                by = (activations[source][donor] - activations[source][one.base]) * either
                for target in range(source, min(LAST + 1, source + rows.shape[1])):
                    change[target] += by @ rows[:, target - source] / len(one.donors)
                for place in (one.base, donor):
                    active = activations[source][place]
                    mine += np.array([float(member[place].sum()), float((active * length)[member[place]].sum())]) / 2
                    size += np.array([float((active > 0).sum()), float((active * length).sum())]) / 2
        torch.testing.assert_close(part["members"][:, row], change, **close)
    assert (writes.number_share, writes.activity_share) == pytest.approx(tuple(mine / size), rel=1e-5)
    assert 0.05 < writes.number_share < 0.95


def test_the_first_link_that_loses_the_variable_is_at_fault():
    good = {"mlp": 1.0, "mlp_found": 1.0, "mlp_frozen": 1.0, "features": 0.95, "members": 0.9, "others": 0.1}
    cases = {
        "none": {},
        "model": {"mlp": 0.89, "mlp_found": 0.89, "features": 0.1},
        "search": {"mlp": 0.89, "features": 0.1},
        "attention": {"mlp_frozen": 0.8, "features": 0.2},
        "dictionary": {"features": 0.89, "members": 0.0},
        "rule": {"members": 0.4, "others": 0.4},
        "spread": {"members": 0.4, "others": 0.5},
    }
    for word, changed in cases.items():
        assert fault(good | changed) == word
        low, high = ({arm: share + by for arm, share in (good | changed).items()} for by in (-0.5, 0.5))
        assert certain(good | changed, good | changed, good | changed) and not certain(good | changed, low, high)
    frozen = good | {"mlp_frozen": 0.0}
    assert fault(frozen) == "attention" and fault(frozen, live=True) == "none" == fault(good)
    assert held_live(load_case(ROOT, "attention"), "title") and held_live(load_case(ROOT, "rhyme_planning"), "plan")
    assert not held_live(load_case(ROOT, "refusals"), "harm") and not held_live(load_case(ROOT, "refusals"), "request")
    assert set(cases) == set(FOUND_AT_FAULT) and {*cases, NOT_FOUND, NOT_MEASURED} == set(FAULTS)


def row(arm, accuracy, **more):
    return {
        "case": "refusals", "supernode": "harm", "position": "factor:second", "layers": "0-2", "arm": arm, "accuracy": accuracy,
        "low": accuracy - 0.02, "high": min(1.0, accuracy + 0.02), "n": 40, "clusters": 20, "fault": "spread", "certain": 1.0,
    } | more  # fmt: skip


def table_of(*more):
    rows = [
        row("mlp", 0.99),
        row("mlp_frozen", 0.99),
        row("features", 0.97),
        row("members", 0.41),
        row("others", 0.62),
        *more,
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_a_page_says_what_carries_the_variable():
    case = load_case(ROOT, "refusals")
    (unsure,) = site_sentences(case, table_of().assign(certain=0.0), ["harm"])
    assert unsure.endswith("than the rule takes. But the interval leaves that open.")
    lost = row("mlp", np.nan, supernode="harmful", fault=NOT_FOUND, layers="", low=np.nan, high=np.nan)
    told = site_sentences(case, table_of(lost), ["harm", "harmful", "say_answer"])
    assert told == [
        "Site of “harm: squeak” (at the last piece of the prompt's second, layers 0 to 2): exchanging what the MLPs write there brings "
        "the donor's answer on 99.0% [97.0%, 100%] of held-out prompts; all features there 97.0%; the members 41%; the other features "
        "62%. The variable is spread over more features than the rule takes.",
        "Site of “harmful request”: the search found none, so nothing was exchanged there.",
    ]  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    """Refusals, judged: a claim misses by a part that holds the harm, another by one whose experiment holds nothing that was looked for."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "reports/refusals").mkdir(parents=True)
    table_of().to_csv(tmp_path / "reports/refusals/site_parts.csv", index=False)
    said = {
        "ref-1": "Part 'without the specific harm the harmful request falls' decides: it is 0.2",
        "ref-2": "no reason that names a part",
        "ref-5": "held-out donor_top1 of inject_kind",
        "ref-6": "Part 'harmful requests are no longer refused' decides: it is 1",
    }
    rows = [
        {
            "claim": claim, "case": "refusals", "model": "refusals", "transcoders": "per_layer topk", "seed": 0,
            "verdict": "replicated" if claim == "ref-6" else "inconclusive", "statistic": 0.1, "low": 0.0, "high": 0.2,
            "threshold": 0.1, "control": "match", "p": 0.5, "n": 300, "found": 1.0, "method": "studentised-2", "amendments": 0, "reason": reason,
        }
        for claim, reason in said.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "reports/refusals/verdicts.csv", index=False)
    return tmp_path


def test_a_miss_names_its_part_and_what_is_at_fault(checkout):
    root = checkout
    truths = {"ref-1": "true", "ref-2": "true", "ref-5": "open", "ref-6": "true"}
    calibration = pd.DataFrame(
        {
            "case": "refusals", "claim": claim, "model": "refusals", "dictionary": "per_layer topk", "truth": truth,
            "verdict": "replicated" if claim == "ref-6" else "inconclusive",
        }
        for claim, truth in truths.items()
    )  # fmt: skip
    found = misses(root, calibration).set_index("claim")
    assert list(found.index) == ["ref-1", "ref-2"]  # ref-5 is open, ref-6 is replicated
    assert set(found["lacks"]) == {"evidence"}  # these reasons name nothing that they lacked
    assert found.loc["ref-1", "part"] == "without the specific harm the harmful request falls"
    assert found.loc["ref-1", ["supernode", "fault", "members"]].tolist() == ["harm", "spread", 0.41]
    assert found.loc["ref-2", "part"] == "either alone has less than a quarter of it"  # the first one
    (root / "reports/refusals/site_parts.csv").unlink()
    bare = misses(root, calibration)
    assert set(bare["fault"]) == {NOT_MEASURED} and set(bare["supernode"]) == {""}


def test_what_experiments_hold_is_followed_through_what_they_are_computed_from():
    case = load_case(ROOT, "refusals")
    assert held_by(case, ["inhibit_harm"]) == {"harm"} and held_by(case, ["swap_harmful", "none"]) == {"harmful"}
    for name in ("multi_hop", "chain_of_thought"):
        read = load_case(ROOT, name)
        inner = {one for one, experiment in read.experiments.items() if experiment.rests_on}
        assert inner
        for one in inner:
            below = read.experiments[one].rests_on
            assert held_by(read, below) <= held_by(read, [one]) <= set(read.supernodes) and held_by(read, below)


def test_the_deciding_part_is_read_off_the_reason():
    assert deciding_part("Part 'b' decides: so", ["a", "b"]) == "b"
    assert deciding_part("so it is", ["a", "b"]) == deciding_part("Part 'c' decides: so", ["a"]) == "a"
    assert deciding_part("so it is", []) == ""


def test_the_figure_counts_the_faults_and_is_drawn_without_any(checkout):
    missed = pd.DataFrame({"model": "refusals", "case": "refusals", "claim": ["ref-1", "ref-2"], "supernode": "harm"})
    with styled():
        assert caption(figure(parts_of_misses(checkout, missed)))[0] == "Faults: spread 1"
        sound = figure(parts_of_misses(checkout, missed).assign(fault="none"))  # a row without a fault is left out
        assert caption(sound)[1] == "Faults: none 1" and not sound.axes[0].lines
        none = parts_of_misses(checkout, missed.assign(supernode=""))
        assert none.empty and "no site that a missed true claim rests on" in caption(figure(none))[1]


def test_the_text_states_the_rule_as_the_code_has_it():
    rows = (ROOT / "docs/explanation/faults.md").read_text(encoding="utf-8").splitlines()
    stated = {line.split("`")[1]: line.split("|")[2] for line in rows if line.startswith("| `")}
    assert set(ARMS) | set(FAULTS) <= set(stated)
    assert f"`{HELD}`" in stated["model"] and f"`{HELD}`" in stated["search"] and SPREAD == 0.5
    assert "at least half of `features`" in stated["spread"]
    for word in ("attention", "dictionary", "spread", "rule"):
        assert f"below `{KEPT}` of" in stated[word]
