"""Figures of one prompt: its simplified attribution graph, and the effects of interventions on it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.patheffects import Normal, Stroke

from biology.cases.case import Case, titles
from biology.cases.perturbations import Inhibit, Perturbation
from biology.figures.drawing import (
    BOLD,
    NothingToDraw,
    blank,
    captioned,
    colour,
    label,
    signed,
    size,
    text_width,
    words,
)
from biology.figures.graph_arrows import Arrow, Box, points
from biology.figures.graph_layout import Layout, layout, node, repeated
from biology.tables import Tables

# ------------------------------------------------------------------------------------------------------ supernode graph


def supernode_graph(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """The simplified attribution graph of one prompt (`subject`, by default the first), in the style of the paper."""
    edges = tables["edges"]
    detailed = edges.loc[edges["source"].str.startswith("token:"), "item"]
    item = _subject(list(dict.fromkeys(detailed)), subject, "supernode_graph", case)
    prompt = tables["prompts"][tables["prompts"]["item"] == item]
    roles = {"title": (size(0.5), BOLD), "note": (size(-2), 400), "token": (size(), 400)}
    arranged = layout(
        edges[edges["item"] == item],
        tables["supernodes"][tables["supernodes"]["item"] == item],
        [label(token) for token in _tokens(prompt, edges[edges["item"] == item])],
        _probabilities(tables, item, prompt),
        lambda text, role: text_width(label(text), *roles[role]),
        titles(case, item),
    )
    margin = 0.08
    figure, axes = blank(arranged.width + 2 * margin, arranged.height + 2 * margin)
    axes.set(xlim=(-margin, arranged.width + margin), ylim=(-margin, arranged.height + margin))
    for arrow in sorted(arranged.arrows, key=lambda arrow: abs(arrow.share)):
        _draw_arrow(axes, arrow)
    linked = {arrow.source for arrow in arranged.arrows}
    for box in arranged.boxes:
        _draw_box(axes, box, box.kind != "token" or box.name in linked)
    for arrow in arranged.arrows:
        _draw_share(axes, arrow)
    _draw_key(axes, 0.0, arranged.height - 0.1)
    return captioned(
        figure,
        _strongest(arranged),
        "Boxes are supernodes: groups of transcoder features found by the rules of the case. Tokens of the prompt are "
        "below, outputs on top. An arrow is a direct effect, as a share of all direct effects into its target: plus "
        "and a pointed end where it excites, minus and a flat end where it inhibits. Small shares are left out, and so "
        f"are features in no supernode, errors and biases: {arranged.undrawn:.0%} of the direct effects into the "
        "outputs shown.",
    )


def _strongest(arranged: Layout) -> str:
    """The title of a graph: the supernode with the largest direct effect on the most probable output."""
    called = {box.name: box.text for box in arranged.boxes}
    outputs = [box for box in arranged.boxes if box.kind == "logit"]
    supernodes = {box.name for box in arranged.boxes if box.kind not in ("logit", "token")}
    found = [a for a in arranged.arrows if outputs and a.target == outputs[0].name and a.source in supernodes]
    if not found:
        return f"No supernode has a direct effect on {outputs[0].text if outputs else 'the output'}"
    best = max(found, key=lambda arrow: abs(arrow.share))
    what = f"makes {best.share:.0%}" if best.share > 0 else f"takes away {-best.share:.0%}"
    return f"“{called[best.source]}” {what} of the direct effects on “{called[best.target]}”, the largest share of a supernode"


def _tokens(prompt: pd.DataFrame, edges: pd.DataFrame) -> list[str]:
    if len(prompt) and "tokens" in prompt:
        return [str(token) for token in json.loads(prompt["tokens"].iloc[0])]
    at = {position: text for kind, text, position in map(node, edges["source"]) if kind == "token"}
    return [at.get(position, "·") for position in range(max(at, default=-1) + 1)]


def _probabilities(tables: Tables, item: str, prompt: pd.DataFrame) -> dict[str, float]:
    panel = tables.get("panel", pd.DataFrame(columns=["item", "kind", "supernode_or_token", "clean"]))
    rows = panel[(panel["item"] == item) & (panel["kind"] == "probability")]
    seen = dict(zip(rows["supernode_or_token"], rows["clean"], strict=True))
    return seen | dict(zip(prompt["top1"], prompt["probability"], strict=True))


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    width = 0.6 + 6.5 * abs(arrow.share)
    tip, before = np.array(arrow.curve[3]), np.array(arrow.curve[2])
    along = (tip - before) / np.hypot(*(tip - before))
    across = np.array([-along[1], along[0]])
    half = 0.035 + 0.0105 * width
    neck = tip - along * (0.075 + 0.012 * width if arrow.share > 0 else 0.0)
    path = Curve([*arrow.curve[:3], tuple(neck)], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    tint = "C0" if arrow.share > 0 else "C1"
    under = colour("figure.facecolor")  # a rim, so that crossing arrows stay apart
    axes.add_patch(PathPatch(path, fill=False, linewidth=width + 1.6, edgecolor=under, capstyle="butt"))
    axes.add_patch(PathPatch(path, fill=False, linewidth=width, edgecolor=tint, capstyle="butt", alpha=0.75))
    if arrow.share > 0:
        axes.add_patch(Polygon([tip, neck + across * half, neck - across * half], facecolor=tint, edgecolor="none"))
    else:
        ends = np.array([tip + across * (half + 0.02), tip - across * (half + 0.02)])
        axes.plot(*ends.T, color=tint, linewidth=1.8, solid_capstyle="butt")


def _draw_share(axes: Axes, arrow: Arrow) -> None:
    x, y = points(arrow.curve, [arrow.mark])[0]
    sign, tint = ("+", "C0") if arrow.share > 0 else ("−", "C1")
    size_of = f"{abs(arrow.share):.0%}" if abs(arrow.share) >= 0.005 else "<1%"
    text = axes.text(x, y, f"{sign}{size_of}", fontsize=size(-2), weight=BOLD, color=tint)
    text.set(ha="center", va="center")
    text.set_path_effects([Stroke(linewidth=2.2, foreground=colour("figure.facecolor")), Normal()])


def _draw_key(axes: Axes, x: float, y: float) -> None:
    for row, (share, text) in enumerate([(0.12, "excites"), (-0.12, "inhibits")]):
        height = y - 0.2 * row
        _draw_arrow(axes, Arrow("", "", share, tuple((x + step, height) for step in (0.0, 0.1, 0.2, 0.34))))
        axes.text(x + 0.46, height, text, va="center_baseline", fontsize=size(-1))
    note = "width and number: share of the\ndirect effects into the target"
    axes.text(x, y - 0.36, note, va="top", fontsize=size(-1), color=colour("axes.edgecolor"), linespacing=1.25)


def _draw_box(axes: Axes, box: Box, strong: bool) -> None:
    edge, ink = colour("axes.edgecolor"), colour("text.color")
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    look = {
        "boxstyle": f"round,pad=0,rounding_size={0.05 if box.kind == 'token' else 0.09}",
        "facecolor": colour("figure.facecolor"),
        "edgecolor": edge if strong else colour("grid.color"),
        "linewidth": 0.8,
    }
    if box.features > 1:  # a second card behind the first: several features
        axes.add_patch(FancyBboxPatch((corner[0] + 0.035, corner[1] - 0.035), box.width, box.height, **look))
    look |= {"token": {"facecolor": "0.96"}, "logit": {"edgecolor": ink, "linewidth": 1.3}}.get(box.kind, {})
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, **look))
    if box.kind == "token":
        axes.text(box.x, box.y, box.text, ha="center", va="center_baseline", color=ink if strong else edge)
        return
    lift = 0.075 if box.note else 0.0
    axes.text(box.x, box.y + lift, label(box.text), ha="center", va="center", fontsize=size(0.5), weight=BOLD)
    axes.text(box.x, box.y - 0.095, box.note, ha="center", va="center", fontsize=size(-2), color=edge)


# ----------------------------------------------------------------------------------------------------- inhibition panel


def inhibition_panel(tables: Tables, subject: str | None = None, case: Case | None = None, outputs: int = 3) -> Figure:
    """The effect of each intervention on one prompt (`subject`) on every supernode and on the most probable outputs."""
    panel = tables["panel"][tables["panel"]["kind"] != "line"]
    item = _subject(list(dict.fromkeys(panel["item"])), subject, "inhibition_panel", case)
    panel, called = panel[panel["item"].isin(_same_text(tables, item))], titles(case, item)
    members = tables["supernodes"][tables["supernodes"]["item"] == item] if "supernodes" in tables else None
    again = repeated(members) if members is not None else []
    names = dict.fromkeys(panel.loc[panel["kind"] == "activation", "supernode_or_token"])
    names = [name for name in names if name not in again]
    once = panel.drop_duplicates(["kind", "supernode_or_token"])
    states: list[tuple[str, str, pd.DataFrame, str]] = [("no intervention", "", once, "clean")]
    for (experiment, of), rows in panel.groupby(["experiment", "item"], sort=False):
        strength = judged_strength(tables, str(experiment), rows["strength"])
        dose = f"M = {signed(strength)}{_from(case, str(experiment), str(of))}"
        dose += ", nothing to hold" * _empty(case, str(experiment), members)
        states.append((str(experiment), dose, rows[rows["strength"] == strength], "value"))
    widths = [max(0.62, text_width(label(called.get(n, words(n))), size(-0.5), BOLD) + 0.12) for n in names]
    first = max(text_width(label(words(text)), size(), BOLD) for text, *_ in states) + 0.15
    gap, step, top = 0.07, 0.56, 0.56 * len(states)
    starts = np.cumsum([first, *(width + gap for width in widths)]).tolist()
    right = starts[-1] + 0.2
    figure, axes = blank(right + 2.1, top + 0.4)
    for name, width, start in zip(names, widths, starts, strict=False):
        title = label(called.get(name, words(name)))
        axes.text(start + width / 2, top + 0.2, title, ha="center", va="center", fontsize=size(-0.5), weight=BOLD)
    axes.text(right, top + 0.2, "most probable outputs", va="center", fontsize=size(-0.5), weight=BOLD)
    for row, (text, dose, rows, column) in enumerate(states):
        middle = top - step * (row + 0.5)
        line = "axes.edgecolor" if row == 0 else "grid.color"
        axes.plot([0, right + 2.1], [middle + step / 2] * 2, color=colour(line), linewidth=0.6)
        axes.text(0, middle + (0.07 if dose else 0), label(words(text)), va="center", weight=BOLD)
        axes.text(0, middle - 0.09, dose, va="center", fontsize=size(-1.5), color=colour("axes.edgecolor"))
        active = rows[rows["kind"] == "activation"].set_index("supernode_or_token")
        held = _held(case, text, float(rows["strength"].iloc[0])) if dose else {}
        for name, width, start in zip(names, widths, starts, strict=False):
            if name in active.index:
                clean, value = float(active.loc[name, "clean"]), float(active.loc[name, column])
                _draw_level(axes, start, middle, width, clean, value, held.get(name))
                if dose and name not in held and clean:
                    _draw_control(axes, start, width, middle, 0.3, float(active.loc[name, "control"]) / clean)
        _draw_outputs(axes, rows[rows["kind"] == "probability"], column, right, middle, outputs, bool(dose))
    return captioned(
        figure,
        _largest(states),
        "Rows are interventions, columns supernodes. A cell is the supernode's activation as a share of its activation "
        "without intervention; in a thick frame, the multiple M of it at which the supernode itself was held. On the "
        "right the most probable next tokens. Grey marks: the mean of matched sets of random features.",
    )


def _largest(states: list[tuple[str, str, pd.DataFrame, str]]) -> str:
    """The title of a panel: the intervention that takes most, beyond its control, from the clean prompt's most probable
    output."""
    _, _, before, column = states[0]
    outputs = before[before["kind"] == "probability"].sort_values(column, ascending=False, kind="stable")
    if not len(outputs) or len(states) < 2:
        return "No intervention on this prompt"
    token, clean = outputs["supernode_or_token"].iloc[0], float(outputs[column].iloc[0])
    after: list[tuple[float, str, str, float, float]] = []  # beyond its control, name, dose, level, control
    for name, dose, rows, changed in states[1:]:
        here = rows[(rows["kind"] == "probability") & (rows["supernode_or_token"] == token)]
        if len(here):
            level, control = float(here[changed].iloc[0]), float(here["control"].iloc[0])
            after.append(((clean if np.isnan(control) else control) - level, name, dose, level, control))
    if not after:
        return f"“{token}”: {clean:.0%} without intervention"
    beyond, name, dose, level, control = max(after, key=lambda one: one[0])
    beside = "" if np.isnan(control) else f" (matched random features: to {control:.0%})"
    rank = "the most beyond its control" if beyond > 0 else "not beyond its control, as none"
    most = f", {rank} of {len(after)} interventions" * (len(after) > 1)
    return f"“{words(name)}” ({dose}) takes “{token}” from {clean:.0%} to {level:.0%}{beside}{most}"


def _same_text(tables: Tables, item: str) -> list[str]:
    """The named prompts with this prompt's text (they differ in the donor), itself included."""
    prompts = tables.get("prompts")
    if prompts is None or item not in set(prompts["item"]):
        return [item]
    text = prompts.loc[prompts["item"] == item, "text"].iloc[0]
    return list(prompts.loc[prompts["text"] == text, "item"])


def _from(case: Case | None, experiment: str, item: str) -> str:
    """The source of the features that an experiment injects."""
    found = case.experiments.get(experiment) if case else None
    if case is None or not isinstance(found, Perturbation) or found.injected is None or item not in case.prompts:
        return ""
    return f", from {words(case.prompts[item].factors.get(found.donor, ''))}"


def _empty(case: Case | None, experiment: str, members: pd.DataFrame | None) -> bool:
    """Whether an inhibition has no feature to hold on the prompt, and so does nothing."""
    found = case.experiments.get(experiment) if case else None
    return isinstance(found, Inhibit) and members is not None and found.inhibit not in set(members["supernode"])


def _held(case: Case | None, experiment: str, strength: float) -> dict[str, float]:
    """Multiples at which an experiment holds supernodes of the prompt itself (a swap holds one at minus M)."""
    found = case.experiments.get(experiment) if case else None
    if not isinstance(found, Perturbation):
        return {}
    return {name: multiple + 0.0 for name, multiple in found.holds(strength).items()}  # no minus before zero


def _draw_level(axes: Axes, x: float, y: float, width: float, clean: float, value: float, held: float | None) -> None:
    """Draws a cell of the panel: the share of the clean activation as a number and as a level; or the multiple held."""
    height, share = 0.3, value / clean if clean else 0.0
    look = {"boxstyle": "round,pad=0,rounding_size=0.07", "facecolor": "none"}
    frame = FancyBboxPatch((x, y - height / 2), width, height, **look, linewidth=0.6 if held is None else 1.7)
    frame.set_edgecolor(colour("axes.edgecolor" if held is None else "text.color"))
    axes.add_patch(frame)
    if held is None:
        filled = width * min(1.0, max(0.0, share))
        level = Rectangle((x, y - height / 2), filled, height, color="C0", alpha=0.2, linewidth=0)
        axes.add_patch(level)
        level.set_clip_path(frame)
        text = f"{signed(round(100 * share))}%" if clean else "on" if value else "off"
    else:
        text = f"{signed(held)} ×"
    ink = colour("text.color" if clean or value else "axes.edgecolor")
    axes.text(x + width / 2, y, text, ha="center", va="center_baseline", color=ink)


def _draw_control(axes: Axes, x: float, width: float, y: float, height: float, share: float) -> None:
    """Draws the level after a matched set of random features; nothing if there was none."""
    if not np.isnan(share):
        at, ink = x + width * min(1.0, max(0.0, share)), colour("axes.edgecolor")
        for edge in (y - height / 2, y + height / 2):  # a notch at either edge, so that no number is crossed
            axes.plot([at, at], [edge - 0.035, edge + 0.035], color=ink, linewidth=2, solid_capstyle="butt")


def _draw_outputs(
    axes: Axes, rows: pd.DataFrame, column: str, x: float, middle: float, count: int, control: bool
) -> None:
    best = rows.sort_values(column, ascending=False, kind="stable").head(count)
    room = 0.85
    for rank, (token, value, matched) in enumerate(
        best[["supernode_or_token", column, "control"]].itertuples(index=False)
    ):
        y, end = middle + 0.16 * ((len(best) - 1) / 2 - rank), value
        axes.add_patch(Rectangle((x, y - 0.05), room * value, 0.1, color="C0" if rank == 0 else "C5", linewidth=0))
        if control and not np.isnan(matched):
            at = x + room * matched
            axes.plot(
                [at, at], [y - 0.065, y + 0.065], color=colour("axes.edgecolor"), linewidth=2, solid_capstyle="butt"
            )
            end = max(value, matched)
        text = f"{label(token)}  {value:.0%}" if value >= 0.005 else f"{label(token)}  <1%"
        weight = BOLD if rank == 0 else 400
        axes.text(x + room * end + 0.05, y, text, va="center_baseline", fontsize=size(-1), weight=weight)


# --------------------------------------------------------------------------------------------------- reading the tables


def _subject(known: list[str], subject: str | None, figure: str, case: Case | None) -> str:
    """The prompt to draw: the one requested, else the case's first with rows."""
    if not known or (subject and subject not in known):
        listed = ", ".join(known) or "none"
        raise NothingToDraw(f"figure '{figure}': no rows for prompt '{subject or 'any'}'. Prompts with rows: {listed}.")
    return subject or next((name for name in (case.prompts if case else ()) if name in known), known[0])


def judged_parts(tables: Tables, experiment: str, outcome: str | None = None) -> pd.DataFrame:
    """Parts of judged claims that use an experiment; none if the claims were not judged."""
    empty = pd.DataFrame(columns=["experiment", "outcome", "strength", "threshold", "direction", "gate"])
    parts = tables.get("parts", empty)
    parts = parts[parts["experiment"] == experiment.partition("/")[0]]
    return parts if outcome is None else parts[parts["outcome"] == outcome]


def judged_strength(tables: Tables, experiment: str, found: pd.Series) -> float:
    """The strength that was judged, or else the largest."""
    judged = [strength for strength in judged_parts(tables, experiment)["strength"] if strength in set(found)]
    return float(judged[0] if judged else max(found, key=abs))
