"""What the title of every figure has to say, worked out from the tables by code that shares nothing with what draws."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportIndexIssue=false
# pyright: reportCallIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from biology.cases.case import discover_cases, load_case
from biology.figures import case_figures as figures
from biology.figures import dictionary_figures, drawing
from biology.figures.drawing import caption, styled
from biology.tables import Tables

ROOT = Path(__file__).parents[1]
CASES = {name: load_case(ROOT, name) for name in discover_cases(ROOT)}
SOURCES = {"any": figures.FIGURES, "dictionary": dictionary_figures.FIGURES}
SOURCES |= {name: figures.own_figures(case) for name, case in CASES.items()}
LANGUAGES = ("en", "fr", "zh", "de", "es", "ru")
MATCHED = "matched random features"
STATED: dict[tuple[str, str], Callable[[Tables], str]] = {}
"""By source (a case, or `any`, or `dictionary`) and figure: its title, from its tables."""


def states(source: str, figure: str):
    def keep(function):
        STATED[source, figure] = function
        return function

    return keep


def title(source: str, figure: str, tables: Tables, cases, *, laid_out: bool = True) -> str:
    """What the figure calls itself; to lay it out takes half of the time, and no title depends on it."""
    with styled(), pytest.MonkeyPatch.context() as patch:
        if not laid_out:
            patch.setattr(drawing, "_settle", lambda figure: None)
        if source == "dictionary":
            return caption(dictionary_figures.FIGURES[figure][1](tables, "tiny"))[0]
        return caption(SOURCES[source][figure](tables, None, cases[source]))[0]


# ------------------------------------------------------------------------------------------------------------ arithmetic


def values(tables: Tables, experiment: str, outcome: str, arm: str, **where) -> pd.DataFrame:
    """Rows of held-out scored prompts that are answered correctly."""
    prompts, evidence = tables["prompts"], tables["evidence"]
    items = prompts.query("split == 'heldout' and role == 'score' and correct")
    found = evidence[evidence["item"].isin(items["item"]) & (evidence["experiment"] == experiment)]
    found = found[(found["outcome"] == outcome) & (found["arm"] == arm)].merge(
        items.drop(columns=["cluster", "split"]), on="item"
    )
    for column, level in where.items():
        found = found[found[column] == level]
    assert len(found)
    return found


def mean(*args, **where) -> float:
    """Items averaged within clusters, and clusters with equal weight."""
    by_cluster: dict[str, dict[str, list[float]]] = {}
    for row in values(*args, **where).itertuples():
        by_cluster.setdefault(row.cluster, {}).setdefault(row.item, []).append(row.value)
    return float(np.mean([np.mean([np.mean(one) for one in items.values()]) for items in by_cluster.values()]))


def beside(tables: Tables, experiment: str, outcome: str, **where) -> str:
    """The effect and its control, as shares where all that is drawn beside them are shares."""
    level = {arm: mean(tables, experiment, outcome, arm, **where) for arm in ("effect", "match")}
    shares = tables["evidence"]["value"].max() <= 1
    effect, match = (f"{100 * one:.0f}%" if shares else f"{round(one, 2):g}" for one in level.values())
    return f"{effect}, {MATCHED} {match}"


# --------------------------------------------------------------------------------------------- figures that every case may list


@states("any", "supernode_graph")
def _(tables):
    called = {"texas": "Texas", "say_a_capital": "say a capital", "say_austin": "say Austin"}
    output = tables["prompts"].set_index("item").loc["texas", "top1"]
    into = tables["edges"][tables["edges"]["target"] == f"logit:{output}"]
    all_of_it = into["direct"].abs().sum()
    supernodes = into[into["source"].isin(set(tables["supernodes"]["supernode"]))]
    best = supernodes.loc[supernodes["direct"].abs().idxmax()]
    what = f"{'makes' if best['direct'] > 0 else 'takes away'} {abs(best['direct']) / all_of_it:.0%}"
    name = called.get(best["source"], best["source"])
    return f"“{name}” {what} of the direct effects on “{output}”, the largest share of a supernode"


@states("any", "inhibition_panel")
def _(tables):
    rows = tables["panel"][tables["panel"]["supernode_or_token"] == "Austin"]
    assert (tables["panel"].loc[tables["panel"]["kind"] == "probability", "clean"] <= rows["clean"].iloc[0]).all()
    beyond = rows["control"] - rows["value"]
    best = rows.loc[beyond.idxmax()]
    rank = "the most beyond its control" if beyond.max() > 0 else "not beyond its control, as none"
    name = best["experiment"].replace("_", " ")
    return (
        f"“{name}” (M = −2) takes “Austin” from {best['clean']:.0%} to {best['value']:.0%} (matched random features: to "
        f"{best['control']:.0%}), {rank} of {len(rows)} interventions"
    )


@states("any", "swap_panel")
def _(tables):
    return f"Donor top1: swap state {beside(tables, 'swap_state', 'donor_top1', strength=2)}"


@states("any", "dose_response")
def _(tables):
    """At the strength that was judged, or else at the one farthest from no change."""
    curve = "swap_state/dose" in set(tables["evidence"]["experiment"])
    name, dose = ("swap_state/dose", 2) if curve else ("swap_state", 4)
    return f"Swap state, donor top1 at M = {dose}: {beside(tables, name, 'donor_top1', strength=dose)}"


@states("any", "path_share")
def _(tables):
    return f"Path share {beside(tables, 'paths', 'path_share')}; shortcut {beside(tables, 'paths', 'shortcut')}"


@states("any", "fidelity")
def _(tables):
    found = tables["fidelity"].set_index(["layer", "behaviour", "metric"])["value"]
    unexplained = np.mean([found[str(layer), "all", "fvu"] for layer in range(5)])
    same = found["all", "all", "top1_agreement"]
    return (
        f"Transcoders leave {unexplained:.1%} of the variance unexplained; with all MLPs replaced the model says the same in "
        f"{same:.1%}"
    )


# -------------------------------------------------------------------------------------------------- figures of single cases


@states("addition", "operand_plots")
def _(tables):
    own = tables["operands"].query("transcoders == 'own' and at == 'last'")
    three = own[own["family"].isin(["add", "lookup", "sum"])]
    share, ones = three["activity"].sum() / own["activity"].sum(), (three["digit"] == "ones").sum()
    return (
        f"Operand plots: add-functions, lookups and sums hold {share:.0%} of the activity at the equals sign; {ones} of {len(three)} "
        "of them read ones digits"
    )


@states("addition", "class_composition")
def _(tables):
    share, null = (mean(tables, "classes", "class_share", arm) for arm in ("effect", "shuffle"))
    return (
        f"{share:.0%} of the influence belongs to add-functions, lookups and sums; {null:.0%} with shuffled transcoders"
    )


@states("addition", "pathways")
def _(tables):
    value = round(mean(tables, "dissociation", "interaction:ones_right,near_right", "effect"), 2)
    return f"Ones digits and magnitudes: the interaction of the two inhibitions is {value:g} (two pathways: below zero)"


@states("addition", "lookup_swap")
def _(tables):
    def told(name, experiment, outcome):
        effect, match = (mean(tables, experiment, outcome, arm) for arm in ("effect", "match"))
        return f"{name} {effect:.0%} ({MATCHED} {match:.0%})"

    lookups = {"calc": "swap", "the sum of": "swap_sum_of", "apples and pears": "swap_fruit"}
    ones = {"constrained": "swap_ones", "iterative": "swap_ones_iterative"}
    sums, digits = (
        ", ".join(told(name, experiment, outcome) for name, experiment in named.items())
        for named, outcome in ((lookups, "donor_top1"), (ones, "ones_swapped"))
    )
    return (
        f"Swapping all lookups gives the donor's sum: {sums}; swapping lookups of ones digits its ones digit: {digits}"
    )


@states("addition", "wiring")
def _(tables):
    plain, shuffled, weighted, both = (
        f"{mean(tables, 'wiring', outcome, arm):.2f}"
        for outcome in ("auc_virtual", "auc_twera")
        for arm in ("effect", "shuffle")
    )
    return (
        f"Weights from a sum's lookups tell its sum features from others: area {plain}, with exchanged plots {shuffled}; weighted by "
        f"activity {weighted}, {both}"
    )


@states("addition", "connectivity")
def _(tables):
    fed, chance = (mean(tables, "connectivity", "input:lookup>sum", arm) for arm in ("effect", "shuffle"))
    return f"Of what a sum's features take in from earlier ones, lookups give a net {fed:+.0%}; with families exchanged {chance:+.0%}"


def foretold(tables: Tables, arm: str) -> pd.DataFrame:
    share, kept, clean = (
        values(tables, experiment, outcome, of).set_index("item")
        for experiment, outcome, of in (
            ("graph", "path_share", arm),
            ("inhibit_bridge", "answer_logit", arm),
            ("inhibit_bridge", "answer_logit", "clean"),
        )
    )
    lost = 1 - kept["value"] / clean["value"]
    return pd.DataFrame({"cluster": share["cluster"], "share": share["value"], "lost": lost})


@states("multi_hop", "foretold")
def _(tables):
    """The interval within what an own bootstrap over states has of chance."""
    pairs, rng = foretold(tables, "effect"), np.random.default_rng(7)
    middle, null = (spearmanr(rows["share"], rows["lost"]).statistic for rows in (pairs, foretold(tables, "match")))
    states_of = [rows[["share", "lost"]].to_numpy() for _, rows in pairs.groupby("cluster")]
    drawn = [
        np.concatenate([states_of[n] for n in rng.integers(len(states_of), size=len(states_of))]) for _ in range(300)
    ]
    low, high = np.quantile([spearmanr(one).statistic for one in drawn], [0.025, 0.975])
    said = title("multi_hop", "foretold", tables, CASES)
    stated = [float(one.replace("−", "-")) for one in re.search(r"\((\S+) to (\S+)\)", said).groups()]
    assert np.allclose(stated, [low, high], atol=0.06)
    number = lambda value: f"{round(value, 2):g}".replace("-", "−")  # noqa: E731
    return (
        "Rank correlation of the graph's share of paths through the bridge with what its inhibition takes from the answer: "
        f"{number(middle)} ({number(stated[0])} to {number(stated[1])}); matched random features {number(null)}"
    )


@states("multilingual", "edit_matrix")
def _(tables):
    told = []
    for edit in ("operation", "operand", "language"):
        effect, match = (
            mean(tables, f"{edit}_swap", f"level_top1:expected_{edit}", arm) for arm in ("effect", "match")
        )
        told.append(f"{edit} {effect:.0%} (random features {match:.0%})")
    return f"The cell that an edit predicts is said: {', '.join(told)}"


@states("multilingual", "crossover_curves")
def _(tables):
    crossings: dict[str, list[float]] = {"effect": [], "match": []}
    for arm in crossings:
        for language in LANGUAGES:
            lead = {}
            for dose in (1.0, 2.0, 3.0):
                new, old = (
                    mean(tables, "operation_swap/dose", outcome, arm, strength=dose, language=language)
                    for outcome in ("level_probability:expected_operation", "answer_probability")
                )
                lead[dose] = new - old
            ahead = [dose for dose in lead if lead[dose] > 0]
            if ahead:
                before = ahead[0] - 1
                part = lead[ahead[0]] / (lead[ahead[0]] - lead[before]) if before in lead else 0.0
                crossings[arm].append(ahead[0] - part)
    found = crossings["effect"]
    assert found
    return (
        f"The new operation takes over at M from {min(found):.2g} to {max(found):.2g}, in {len(found)} of 6 languages (with matched "
        f"random features in {len(crossings['match'])})"
    )


@states("multilingual", "overlap_by_layer")
def _(tables):
    gap = [
        mean(tables, "overlap", f"overlap:{layer}", "effect") - mean(tables, "overlap", f"overlap:{layer}", "shuffle")
        for layer in range(3)
    ]
    return f"Translations share most, beyond unrelated prompts, in layer {gap.index(max(gap))}: {max(gap):.2f}"


@states("multilingual", "default_language")
def _(tables):
    found = {one: mean(tables, "default_language", f"default_written:{one}", "effect") for one in LANGUAGES}
    best, most = max(found.items(), key=lambda pair: pair[1])
    null = mean(tables, "default_language", f"default_written:{best}", "match")
    return f"The language that shared say-features promote most is {best}, by {most:.2f} standard deviations (random features {null:.2f})"


@states("rhyme_planning", "planning_census")
def _(tables):
    sites = CASES["rhyme_planning"].experiments["census"].sites
    at, null = (mean(tables, "census", "planned", arm) for arm in ("effect", "random"))
    found = {site: mean(tables, "census", "planned", "position", draw=n) for n, site in enumerate(sites)}
    comma = found.pop("-2")
    return (
        f"{at:.0%} of the planned word's features fire at the newline, {comma:.0%} at the comma before it, "
        f"{np.mean(list(found.values())):.1%} at positions before that; of shuffled transcoders' {null:.0%} at the newline"
    )


@states("rhyme_planning", "position_sweep")
def _(tables):
    sites, name = CASES["rhyme_planning"].experiments["inject_rhyme"].sites, "inject_rhyme/sweep"
    found = {site: mean(tables, name, "line_ends_donor", "effect", draw=n) for n, site in enumerate(sites)}
    matched = mean(tables, name, "line_ends_donor", "match", draw=sites.index("last"))
    newline, most = found.pop("last"), max(found.values())
    return (
        f"The same push makes the line end in the injected word in {newline:.0%} of couplets at the newline ({MATCHED} "
        f"{matched:.0%}), in at most {most:.0%} at any other position"
    )


@states("rhyme_planning", "rewritten_lines")
def _(tables):
    """Of the lines at the largest strength, which is drawn where no claim judged one."""
    lines = tables["panel"][tables["panel"]["strength"] == 1]
    others = tuple(f" {word}" for word in set(tables["prompts"]["word"]) - {"rabbit", ""})
    written, beside = (lines[lines[column] == 1] for column in ("value", "control"))
    moved, null = (sum(line.endswith(others) for line in one["supernode_or_token"]) for one in (written, beside))
    return (
        f"{moved} of {len(written)} interventions make the line end in another word that a line can end in, {null} of {len(beside)} "
        "controls"
    )


@states("rhyme_planning", "carriers")
def _(tables):
    told = []
    for name in ("resample", "resample_forced", "resample_hidden", "resample_hidden_forced"):
        newline, comma = (mean(tables, name, "line_ends_donor", arm) for arm in ("effect", "position"))
        told.append(f"{name.replace('_', ' ')} {newline:.0%}, {comma:.0%} at the comma")
    return f"Lines that end in the donor's word after the newline's stream was exchanged: {'; '.join(told)}"


# ------------------------------------------------------------------------------------------------ figures of dictionaries


@states("dictionary", "dictionary_layers")
def _(tables):
    whole = tables["dictionary"].query("layer == 'all'").set_index("metric")["value"]
    return (
        f"tiny: {whole['l0']:.0f} active features a token explain {whole['explained_variance']:.1%} of what the MLPs write and "
        f"recover {whole['recovered_from_mean']:.1%} of the loss"
    )


@states("dictionary", "feature_density")
def _(tables):
    found = sorted(tables["density"]["density"])
    firing = [one for one in found if one > 0]
    half = (firing[(len(firing) - 1) // 2] + firing[len(firing) // 2]) / 2
    dead, dense = 1 - len(firing) / len(found), sum(one > 0.1 for one in found) / len(found)
    return f"tiny: half of the features that fire do so on fewer than {half:.2%} of tokens; {dead:.1%} are dead, {dense:.1%} dense"


@states("dictionary", "error_by_l0")
def _(tables):
    factors, frame = [], tables["token_errors"]
    for _, here in frame.groupby("layer"):
        tokens = np.repeat(here["l0"].to_numpy(), here["tokens"])
        errors = np.repeat(here["error"].to_numpy(), here["tokens"])
        more = tokens > np.median(tokens)
        if more.any():
            factors.append(errors[more].mean() / errors[~more].mean())
    within = f", in {len(factors)} of 3 layers" if len(factors) < 3 else ""
    times = np.prod(factors) ** (1 / len(factors))
    return (
        f"tiny: tokens with more active features than the median have {times:.1f} times the error of the others{within}"
    )


@states("dictionary", "dictionary_comparison")
def _(tables):
    """Of each set at the L0 of the sparsest one: as it is, if it has that, and otherwise thinned to it."""
    frame = tables["comparison"]
    least = min(row.l0 for row in frame.itertuples() if row.variant == "shipped" and row.dictionary != "neurons")
    found = {}
    for name, rows in frame[frame["l0"] == least].groupby("dictionary"):
        there = rows.set_index("variant")["recovered_from_mean"]
        found[name] = there["shipped" if "shipped" in there else "thinned"]
    assert set(found) == set(frame["dictionary"])
    order = sorted(found, key=lambda name: -found[name])
    told = [f"{name} {found[name]:.1%}" if found[name] >= 0 else f"{name} less than none" for name in order]
    return f"With {least:.0f} active features a token, loss recovered: {', '.join(told)}"


# -------------------------------------------------------------------------------------------------- methods, components


@states("methods", "faithfulness")
def faithfulness(tables: Tables) -> str:
    said = mean(tables, "replacement", "replaced_top1", "effect")
    foretold = mean(tables, "ablation", "influence_foretells", "effect")
    return (
        f"The replacement model says what the model says on {said:.0%} of the prompts; influence foretells ablations with a "
        f"rank correlation of {foretold:.2f}"
    )


@states("components", "components")
def components(tables: Tables) -> str:
    closed, exchanged = (mean(tables, "loops", "closed", arm) for arm in ("effect", "shuffle"))
    push = mean(tables, "last_layer", "last_layer_push", "effect")
    return (
        f"A direct edge closes {closed:.0%} of the pairs of edges in a row, with sources exchanged {exchanged:.0%}; the last "
        f"layer pushes the most probable token by {push:+.2f}"
    )


@states("chain_of_thought", "starts")
def starts(tables: Tables) -> str:
    hint, operand = (
        [f"{mean(tables, name, 'token_share', 'effect', regime=regime):.0%}" for regime in regimes]
        for name, regimes in (
            ("from_hint", ("motivated", "faithful")),
            ("from_operand", ("motivated", "faithful", "made_up")),
        )
    )
    return (
        f"Of the influence on a motivated answer {hint[0]} starts at the hint, on a faithful one {hint[1]}; at the operand "
        f"{operand[0]} and {operand[1]}, and {operand[2]} on a made-up one"
    )


@states("attention", "lost")
def lost(tables: Tables) -> str:
    (scaled, others), (pairs, random) = (
        [f"{mean(tables, 'keys', outcome, arm):.0%}" for arm in ("effect", "match")]
        for outcome in ("scaled_answer", "pairs_answer")
    )
    return (
        f"Features of title and first name, scaled in the keys alone, take {scaled} of the answer's probability, as many others {others}; "
        f"without the largest pairs it loses {pairs}, without others of their sizes {random}"
    )


# --------------------------------------------------------------------------------------------------------------- edits


def edited(tables: Tables, begins: str, target: tuple[str, str], *costs: str) -> str:
    done, matched = (mean(tables, *target, arm) for arm in ("effect", "match"))
    most = max(mean(tables, cost, "answer_lost", "effect") for cost in costs)
    return (
        f"With {begins} on {done:.0%} of the prompts, with matched features on {matched:.0%}; of the answers to others at most "
        f"{most:.1%} are lost"
    )


@states("chain_of_thought", "edit")
def _(tables):
    begins = "the hint edited, a wrong hint is not followed"
    return edited(tables, begins, ("edit_hint", "answer_lost"), "edit_hint_faithful", "edit_hint_made_up")


@states("refusals", "edit")
def _(tables):
    begins = "the harmful request edited, a harmful request is not refused"
    costs = [f"edit_harmful_{what}" for what in ("allowed", "alone", "asked")]
    return edited(tables, begins, ("edit_harmful", "answer_lost"), *costs)


@states("spoiled_diagnosis", "edit")
def _(tables):
    begins = "the features of chills edited, the right disease is asked about"
    return edited(tables, begins, ("edit_culprit", "level_top1:right"), "edit_culprit_ask", "edit_culprit_check")
