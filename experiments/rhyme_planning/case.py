"""Figures of the poems: where the planned word is written down, where a push changes the line, and what is written."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from biology.figures.case_figures import DASHED, judged_strength
from biology.figures.drawing import BOLD, blank, canvas, captioned, colour, label, signed, size, text_width, words
from biology.figures.figure_data import experiments, interval
from biology.tables import ELSEWHERE, Tables, best_site


def planning_census(tables: Tables, subject: str | None = None, case=None) -> Figure:
    """Share of the planned word's features that fire, by position; and what a linear probe reads off the newline."""
    experiment, rows = next(iter(experiments(tables, subject, "planning_census", _has("planned")).items()))
    sites = [*case.experiments[experiment].sites, "last"]
    tokens, places = _tokens(tables, case, sites)
    planned = rows[rows["outcome"] == "planned"]
    order = np.argsort(places, kind="stable")
    means = {}
    for number, site in enumerate(sites):
        arm = (
            planned["arm"].eq("effect")
            if site == "last"
            else planned["arm"].eq("position") & (planned["draw"] == number)
        )
        means[number] = interval(planned[arm])
    figure = canvas(7.0, 2.6, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1.3])
    for x, number in enumerate(order):
        mean, low, high = means[number]
        tint = "C0" if sites[number] == "last" else colour("axes.edgecolor")
        left.bar(x, mean, color=tint, width=0.68)
        left.plot([x, x], [low, high], color=colour("text.color"), linewidth=0.8)
    other = interval(planned[planned["arm"] == "shuffle"])[0]
    null = interval(planned[planned["arm"] == "random"])[0]
    at_newline = [len(order) - 1.4, len(order) - 0.6]
    left.plot(at_newline, [other] * 2, color="C4", linewidth=2.2, label="features of another word, at the newline")
    left.plot(at_newline, [null] * 2, color="C5", linewidth=2.2, label="the same rule with shuffled transcoders, there")
    left.legend(loc="upper left")
    left.set_xticks(range(len(order)), [label(tokens[number]) for number in order], rotation=45, ha="right")
    left.set(ylabel="share that fires", title="Features of the planned word")
    probe = rows[rows["outcome"] == "probe"]
    names = {"effect": "newline", "position": "end of\nthe rhyme", "shuffle": "a guess from\nthe rhyme"}
    for x, (arm, tint) in enumerate(zip(names, ("C0", "C2", "C4"), strict=True)):
        mean, low, high = interval(probe[probe["arm"] == arm])
        right.bar(x, mean, color=tint, width=0.68)
        right.plot([x, x], [low, high], color=colour("text.color"), linewidth=0.8)
    right.set_xticks(range(len(names)), names.values(), fontsize=size(-1))
    right.set(ylabel="right", title="Linear probe", ylim=(0, 1.05))
    at, comma = (means[sites.index(site)][0] for site in ("last", "-2"))
    rest = np.mean([mean for number, (mean, *_) in means.items() if sites[number] not in ("last", "-2")])
    return captioned(
        figure,
        f"{at:.0%} of the planned word's features fire at the newline, {comma:.0%} at the comma before it, {rest:.1%} "
        f"at positions before that; of shuffled transcoders' {null:.0%} at the newline",
        "Left: features that fire for a last word more than for all others together, chosen on couplets with other theme "
        "words and other line ends; the share of them that fires on held-out couplets, by position in the prompt (tokens of "
        "the paper's prompt stand for all prompts). Right: how often a linear probe on the residual stream names the "
        "planned word, beside the chance to guess it from the rhyme alone. 95 % intervals over rhyme families.",
    )


def position_sweep(tables: Tables, subject: str | None = None, case=None) -> Figure:
    """How often the line ends in the injected word, by the position at which the same push is made, beside a control."""
    found = experiments(tables, subject, "position_sweep", lambda rows: rows["experiment"].str.endswith("/sweep").all())
    figure = canvas(7.0, 2.2 * len(found) + 0.5, layout="constrained")
    grid = figure.subplots(len(found), 1, squeeze=False, sharey=True)[:, 0]
    told, control = [], ""
    for axes, (name, rows) in zip(grid, found.items(), strict=True):
        base = name.partition("/")[0]
        sites = case.experiments[base].sites
        tokens, places = _tokens(tables, case, sites)
        order = np.argsort(places, kind="stable")
        rows, found_at = rows[rows["outcome"] == "line_ends_donor"], {}
        for arm, tint, text in (
            ("match", colour("axes.edgecolor"), "matched random features"),
            ("effect", "C0", "plan"),
        ):
            here = rows[rows["arm"] == arm]
            values = np.array([interval(here[here["draw"] == number]) for number in order])
            axes.fill_between(range(len(order)), values[:, 1], values[:, 2], color=tint, alpha=0.2, linewidth=0)
            axes.plot(range(len(order)), values[:, 0], "o-", color=tint, markersize=4, label=text)
            at = [sites[number] for number in order].index("last")
            found_at[arm] = (values[at, 0], float(np.delete(values[:, 0], at).max()))
        (newline, best), (matched, _) = found_at["effect"], found_at["match"]
        told.append(
            f"{newline:.0%} of couplets at the newline (matched random features {matched:.0%}), in at most {best:.0%} at any "
            f"other position{f' ({words(base)})' * (len(found) > 1)}"
        )
        axes.set_xticks(range(len(order)), [label(tokens[number]) for number in order], rotation=45, ha="right")
        axes.set(ylabel="line ends in the\ninjected word", title=words(base), ylim=(-0.03, 1.03))
        evidence, asked = tables["evidence"], case.experiments[base]
        looked = evidence[evidence["experiment"] == f"{base}/{ELSEWHERE}"]
        chosen = best_site(looked, asked.outcomes[0], asked.direction)
        if chosen is not None:
            axes.axvline(list(order).index(chosen), color=colour("text.color"), linewidth=0.8, linestyle=DASHED)
            control = f" Dashed: the position at which development couplets are moved most, “{tokens[chosen]}”; the judged control is there."
    grid[0].legend(loc="upper left")
    return captioned(
        figure,
        f"The same push makes the line end in the injected word in {'; in '.join(told)}",
        "The plan of the donor is added, and the prompt's own taken away, at one position of line 1 at a time; a greedy line "
        "is written after each. Held-out couplets, 95 % bands over rhyme families; tokens of the paper's prompt stand for "
        f"all prompts.{control}",
    )


def rewritten_lines(tables: Tables, subject: str | None = None, case=None) -> Figure:
    """The second lines of the paper's couplet, in full, as they are written under each intervention."""
    panel, prompts = tables["panel"], tables["prompts"].set_index("item")
    panel = panel[panel["kind"] == "line"]
    rows: list[tuple[str, str, str, bool]] = []
    for (name, item), lines in panel.groupby(["experiment", "item"], sort=False):
        strength = judged_strength(tables, str(name), lines["strength"])
        lines = lines[lines["strength"] == strength]
        if not rows:
            clean = lines.loc[lines["clean"] == 1, "supernode_or_token"].iloc[0]
            rows.append(("no intervention", "", clean, False))
        kind = case.experiments[str(name)].kind
        donor = prompts.loc[item, "donor"]
        told = f"M = {signed(strength)}" if kind in ("inhibit", "swap", "inject") else "residual stream"
        if kind in ("swap", "inject", "exchange") and donor in prompts.index:
            told += f", donor plans {prompts.loc[donor, 'word']}"
        rows.append((words(str(name)), told, lines.loc[lines["value"] == 1, "supernode_or_token"].iloc[0], False))
        control = "at the comma" if kind == "exchange" else "matched random features"
        beside = lines.loc[lines["control"] == 1, "supernode_or_token"]
        rows += [("", control, line, True) for line in beside]
    first = max(text_width(name, size(), BOLD) for name, *_ in rows) + 0.25
    second = max(text_width(told, size(-1)) for _, told, *_ in rows) + 0.25
    third = max(text_width(line, size()) for *_, line, _ in rows) + 0.4
    step, top = 0.27, 0.27 * len(rows)
    figure, axes = blank(first + second + third, top + 0.1)
    shared = str(prompts.loc[panel["item"].iloc[0], "text"]).split("\n")[1]
    ends = set(prompts["word"])
    for number, (name, told, line, control) in enumerate(rows):
        y = top - step * (number + 0.5) + 0.05
        if not control:
            axes.plot([0, first + second + third], [y + step / 2] * 2, color=colour("grid.color"), linewidth=0.6)
        axes.text(0, y, name, va="center_baseline", weight=BOLD)
        axes.text(first, y, told, va="center_baseline", fontsize=size(-1), color=colour("axes.edgecolor"))
        rest, _, last = line.rpartition(" ")
        ink = colour("axes.edgecolor" if control else "text.color")
        written = axes.text(first + second, y, label(rest), va="center_baseline", color=ink)
        axes.annotate(
            label(last), (1, y), xycoords=(written, "data"), xytext=(4, 0), textcoords="offset points",
            va="center_baseline", weight=BOLD, color="C0" if last in ends and not control else ink,
        )  # fmt: skip
    other = ends - {rows[0][2].rpartition(" ")[2]}
    changed, beside = (
        [line.rpartition(" ")[2] in other for *_, line, control in rows[1:] if control is of] for of in (False, True)
    )
    return captioned(
        figure,
        f"{sum(changed)} of {len(changed)} interventions make the line end in another word that a line can end in, "
        f"{sum(beside)} of {len(beside)} controls",
        f"Line 2 after “{shared}”, greedy, in full; the word that ends it is coloured. In grey its control: one matched set of "
        "random features, or the same exchange at the comma. Where agreement words are forced, "
        "the first word and the word after “was” are those of the line without intervention; where line 1 is hidden, the new "
        "line can see nothing of it but the newline.",
    )


def carriers(tables: Tables, subject: str | None = None, case=None) -> Figure:
    """What the line ends in when the newline's residual stream is another couplet's: as is, line 1 hidden, words forced."""
    found = experiments(
        tables, subject, "carriers", lambda rows: {"line_ends_donor", "line_ends_own"} <= set(rows["outcome"])
    )
    names = [name for name in found if "/" not in name and case.experiments[name].kind == "exchange"]
    bars = [(name, arm) for name in names for arm in ("effect", "position") if arm in set(found[name]["arm"])]
    figure = canvas(6.6, 0.8 + 0.27 * len(bars), layout="constrained")
    axes = figure.subplots()
    parts = (("line_ends_donor", "the donor's word", "C0"), ("line_ends_own", "its own word", colour("axes.edgecolor")))
    shares = {}
    for row, (name, arm) in enumerate(bars):
        rows, start = found[name][found[name]["arm"] == arm], 0.0
        for outcome, text, tint in parts:
            mean, low, high = interval(rows[rows["outcome"] == outcome])
            shares[name, arm, outcome] = mean
            axes.barh(-row, mean, left=start, color=tint, height=0.62, label=text if row == 0 else None)
            if outcome == "line_ends_donor":
                axes.plot([low, high], [-row, -row], color=colour("text.color"), linewidth=0.8)
            start += mean
        axes.barh(
            -row, 1 - start, left=start, color=colour("grid.color"), height=0.62, label="another" if row == 0 else None
        )
    where = {"effect": "newline", "position": "comma (control)"}
    axes.set_yticks([-row for row in range(len(bars))], [f"{words(name)}: {where[arm]}" for name, arm in bars])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1), xlabel="share of lines by the word that ends them")
    figure.legend(loc="outside upper right", ncols=3)
    told = "; ".join(
        f"{words(name)} "
        + ", ".join(f"{share:.0%}" + " at the comma" * (arm == "position") for (of, arm, outcome), share in shares.items()
                    if of == name and outcome == "line_ends_donor")
        for name in names
    )  # fmt: skip
    return captioned(
        figure,
        f"Lines that end in the donor's word after the newline's stream was exchanged: {told}",
        "No transcoder is involved: in all layers, the residual stream at one position is that of a couplet of another rhyme "
        "family. Hidden: the new line cannot look at line 1. Forced: the agreement words of line 2 are the original ones. "
        "Held-out couplets; intervals over rhyme families.",
    )


def _has(outcome: str):
    return lambda rows: (rows["outcome"] == outcome).any()


def _tokens(tables: Tables, case, sites) -> tuple[list[str], list[int]]:
    """The token of the first named prompt at each site, and its place."""
    text = next(iter(case.prompts.values())).text
    for sign in ":,\n":
        text = text.replace(sign, f" {sign} ")
    tokens = ["<bos>", *filter(None, text.split(" "))]
    places = [len(tokens) - 1 if site == "last" else int(site) % len(tokens) for site in sites]
    names = [tokens[place] for place in places]
    return [f"… {name}" if site == "-4" else name for site, name in zip(sites, names, strict=True)], places


FIGURES = {
    "planning_census": planning_census,
    "position_sweep": position_sweep,
    "rewritten_lines": rewritten_lines,
    "carriers": carriers,
}
