"""Positions of the boxes of a simplified attribution graph: token position is horizontal, depth is vertical, outputs
are at the top.

Every figure takes its positions from here. The interactive viewer places boxes by the same rules
(`templates/explorer_layout.js`). All lengths are inches, the origin is the lower left corner.

A row of boxes is a step of the computation, not a layer: a supernode is one row above the highest supernode that feeds
it. Its layers are written in the box.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from biology.figures.graph_arrows import Arrow, Box, routed

ROW = 0.98
"""Distance between the centres of neighbouring rows of supernodes."""
BOX_HEIGHT, TOKEN_HEIGHT, PAD, GAP = 0.42, 0.25, 0.11, 0.16
FIRST_ROW = 0.97
"""Centre of the lowest row of supernodes."""
MINIMUM_WIDTH = 6.3
UNDRAWN = ("other", "error", "bias")


@dataclass(frozen=True)
class Layout:
    """The boxes and arrows of a supernode graph, and its size."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    width: float
    height: float
    undrawn: float
    """Share of the direct effects into the drawn outputs that comes from features in no supernode, errors and
    biases."""


def node(name: str) -> tuple[str, str, int]:
    """Kind, text and position (-1 if it has none) of a name of the `edges` table."""
    if name.startswith("token:") and "@" in name:
        text, position = name.removeprefix("token:").rsplit("@", 1)
        return "token", text, int(position)
    if name.startswith("logit:"):
        return "logit", name.removeprefix("logit:"), -1
    return ("undrawn" if name in UNDRAWN else "supernode"), name, -1


def with_share(edges: pd.DataFrame) -> pd.DataFrame:
    """Edges of one item with `share`: the direct effect over the sum of |direct effects| into the same target."""
    total = edges.groupby("target")["direct"].transform(lambda values: values.abs().sum())
    return edges.assign(share=(edges["direct"] / total.where(total > 0, 1.0)).astype(float))


def member_sets(members: pd.DataFrame) -> dict[str, set[tuple[int, int, int]]]:
    """The members of each supernode of one item: layer, position and feature."""
    return {
        str(name): set(zip(rows["layer"], rows["pos"], rows["feature"], strict=True))
        for name, rows in members.groupby("supernode", sort=False)
    }


def repeated(members: pd.DataFrame, share: float = 0.5) -> list[str]:
    """Supernodes of one item that mostly repeat another one: both share more than `share` of the smaller one's members.

    The one named first is kept.
    """
    sets = member_sets(members)
    kept: list[str] = []
    for name, found in sets.items():
        if not any(len(found & sets[other]) > share * min(len(found), len(sets[other])) for other in kept):
            kept.append(name)
    return [name for name in sets if name not in kept]


def drawn_edges(edges: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """The edges of one item that are drawn, with their `share`: none of supernodes that repeat another one, and none of `answer`
    where the outputs, of which it is one, are there themselves."""
    if edges["target"].str.startswith("logit:").any():
        edges = edges[(edges["target"] != "answer") & (edges["source"] != "answer")]
    again = repeated(members)
    return with_share(edges[~edges["source"].isin(again) & ~edges["target"].isin(again)])


def strongest_edges(edges: pd.DataFrame, least: float = 0.05, most: int = 22) -> pd.DataFrame:
    """Edges to draw: at least `least` of their target's input, `most` at most (by |influence|). The strongest edge into
    and out of each box is always included, so that none is unconnected; and so is that from a supernode into each
    output, which the title names."""
    edges = edges[~edges["source"].isin(UNDRAWN) & (edges["share"] != 0)]
    size, weight = edges["share"].abs(), edges["influence"].abs()
    kept = set(edges.index[size >= least][(-weight[size >= least]).argsort(kind="stable")[:most]])
    for end in ("source", "target"):
        inner = edges[edges[end].map(lambda name: node(name)[0] == "supernode")]
        kept |= set(inner["share"].abs().groupby(inner[end]).idxmax())
    named = edges[edges["target"].map(lambda name: node(name)[0] == "logit").astype(bool)]
    named = named[named["source"].map(lambda name: node(name)[0] == "supernode").astype(bool)]
    kept |= set(named["share"].abs().groupby(named["target"]).idxmax())
    return edges.loc[[index for index in edges.index if index in kept]]


def spread(wanted: Sequence[float], widths: Sequence[float], low: float, high: float, gap: float = GAP) -> list[float]:
    """Centres of boxes side by side between `low` and `high`, as close as possible to the wanted positions.

    Pools adjacent violators: boxes that collide move as one block to the mean of their wanted positions. The order is
    that of `wanted`; boxes that do not fit extend beyond `high`.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    offset, offsets = 0.0, []
    for rank, i in enumerate(order):
        offset += 0.0 if rank == 0 else (widths[order[rank - 1]] + widths[i]) / 2 + gap
        offsets.append(offset)
    blocks: list[list[float]] = []  # [sum of targets, members]
    for i, shift in zip(order, offsets, strict=True):
        blocks.append([wanted[i] - shift, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    starts = [total / count for total, count in blocks for _ in range(int(count))]
    middles = [0.0] * len(wanted)
    for i, shift, start in zip(order, offsets, starts, strict=True):
        bounded = min(start, high - widths[order[-1]] / 2 - offsets[-1])
        middles[i] = max(bounded, low + widths[order[0]] / 2) + shift
    return middles


def rows(names: Sequence[str], depth: Mapping[str, float], edges: pd.DataFrame) -> dict[str, int]:
    """Row of each supernode: one above the highest that feeds it. Edges against the order of depth do not count."""
    row: dict[str, int] = {}
    for name in sorted(names, key=lambda name: (depth[name], name)):
        feeding = edges.loc[edges["target"] == name, "source"]
        row[name] = max(
            (row[source] + 1 for source in feeding if source in row and depth[source] < depth[name]), default=0
        )
    return row


def layout(
    edges: pd.DataFrame,
    members: pd.DataFrame,
    tokens: Sequence[str],
    probability: Mapping[str, float],
    measure: Callable[[str, str], float],
    titles: Mapping[str, str] | None = None,
    least_probability: float = 0.05,
) -> Layout:
    """Boxes and curves of one item's graph.

    Args:
        edges: rows of table `edges` of the item.
        members: rows of table `supernodes` of the item.
        tokens: texts of all tokens of the prompt, ready to print.
        probability: probability of each output, if known; the most probable one is drawn, and all others of at least
            `least_probability`.
        measure: width in inches of a text set as a box's title ("title"), its note ("note") or a token ("token").
        titles: titles of supernodes, if not their names.
    """
    edges = drawn_edges(edges, members)
    outputs = [name for name in dict.fromkeys(edges["target"]) if node(name)[0] == "logit"]
    outputs = sorted(outputs, key=lambda name: -probability.get(node(name)[1], 0.0))
    outputs = [n for i, n in enumerate(outputs) if i == 0 or probability.get(node(n)[1], 0.0) >= least_probability]
    edges = edges[edges["target"].map(lambda name: node(name)[0] != "logit" or name in outputs)]
    into = edges[edges["target"].isin(outputs) & edges["source"].isin(UNDRAWN)]
    edges = strongest_edges(edges)
    edges = edges.assign(source=edges["source"].map(lambda name: f"@{node(name)[2]}" if ":" in name else name))

    row = _token_row(tokens, measure)
    right = max((box.x + box.width / 2 for box in row), default=0.0) + 0.35
    middle = [box.x for box in row]
    inner = _supernodes(edges, members, middle, right, measure, titles or {})
    top = max((box.y for box in inner), default=FIRST_ROW - ROW) + ROW
    boxes = {box.name: box for box in (*row, *inner, *_outputs(outputs, probability, middle, right, top, measure))}
    arrows = routed(edges[edges["source"].isin(boxes) & edges["target"].isin(boxes)], boxes)

    reach = [(box.x - box.width / 2, box.x + box.width / 2) for box in boxes.values()]
    reach += [(x, x) for arrow in arrows for x, _ in arrow.curve]
    left = min((low for low, _ in reach), default=0.0)
    return Layout(
        tuple(replace(box, x=box.x - left) for box in boxes.values()),
        tuple(replace(arrow, curve=tuple((x - left, y) for x, y in arrow.curve)) for arrow in arrows),
        width=max((high for _, high in reach), default=0.0) - left,
        height=top + BOX_HEIGHT / 2,
        undrawn=float(into["share"].abs().sum() / max(1, len(outputs))),
    )


def _token_row(tokens: Sequence[str], measure: Callable[[str, str], float]) -> list[Box]:
    widths = [max(0.3, measure(token, "token") + PAD) for token in tokens]
    between = max(0.07, (MINIMUM_WIDTH - sum(widths)) / max(1, len(tokens) - 1))
    boxes, left = [], 0.0
    for position, (token, width) in enumerate(zip(tokens, widths, strict=True)):
        middle = left + width / 2
        boxes.append(Box(f"@{position}", "token", token, "", middle, TOKEN_HEIGHT / 2, width, TOKEN_HEIGHT))
        left += width + between
    return boxes


def _supernodes(
    edges: pd.DataFrame,
    members: pd.DataFrame,
    middle: Sequence[float],
    right: float,
    measure: Callable[[str, str], float],
    titles: Mapping[str, str],
) -> list[Box]:
    """A box for each supernode with a drawn edge, above the token where it is most active."""
    ends = dict.fromkeys([*edges["source"], *edges["target"]])
    names = [name for name in ends if not name.startswith("@") and node(name)[0] == "supernode"]
    found = {name: members[members["supernode"] == name] for name in names}
    weight = {name: found[name]["activation"].abs() + 1e-12 for name in names}
    row = rows(names, {name: _mean(found[name]["layer"], weight[name]) for name in names}, edges)
    boxes = []
    for level in sorted(set(row.values())):
        here = [name for name in names if row[name] == level]
        text = {name: (titles.get(name, name.replace("_", " ")), _note(found[name])) for name in here}
        wide = [max(measure(text[name][0], "title"), measure(text[name][1], "note")) + 2 * PAD for name in here]
        at = [found[name]["pos"].map(lambda pos: middle[min(pos, len(middle) - 1)]) for name in here]
        wanted = [_mean(places, weight[name], right / 2) for name, places in zip(here, at, strict=True)]
        for name, x, width in zip(here, spread(wanted, wide, 0.0, right), wide, strict=True):
            features = found[name][["layer", "feature"]].drop_duplicates().shape[0]
            y = FIRST_ROW + level * ROW
            boxes.append(Box(name, "supernode", *text[name], x, y, width, BOX_HEIGHT, features))
    return boxes


def _outputs(
    names: Sequence[str],
    probability: Mapping[str, float],
    middle: Sequence[float],
    right: float,
    y: float,
    measure: Callable[[str, str], float],
) -> list[Box]:
    """A box for each output, above the last token, the most probable first."""
    texts = [node(name)[1] for name in names]
    notes = [f"p = {probability[text]:.2f}" if text in probability else "" for text in texts]
    wide = [max(measure(a, "title"), measure(b, "note")) + 2 * PAD for a, b in zip(texts, notes, strict=True)]
    wanted = [(middle[-1] if middle else 0.0) + 1e-6 * rank for rank in range(len(names))]
    placed = zip(names, texts, notes, spread(wanted, wide, 0.0, right), wide, strict=True)
    return [Box(name, "logit", text, note, x, y, width, BOX_HEIGHT) for name, text, note, x, width in placed]


def _mean(values: pd.Series, weights: pd.Series, default: float = 0.0) -> float:
    return float((values * weights).sum() / weights.sum()) if len(values) else default


def _note(members: pd.DataFrame) -> str:
    if not len(members):
        return ""
    count = members[["layer", "feature"]].drop_duplicates().shape[0]
    low, high = int(members["layer"].min()), int(members["layer"].max())
    layers = f"layer {low}" if low == high else f"layers {low}–{high}"
    return f"{layers} · {count} feature{'s' if count > 1 else ''}"
