"""Attention on one prompt, in words: which heads its output depends on, and why one of them attends where it does."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology.cli.opening import labels_of, open_model, roles_of, subject
from biology.cli.tracing import INEXACT, target_of
from biology.models.text import visible
from biology.printing import print_json

if TYPE_CHECKING:
    from biology.attention.output_heads import OutputHeads
    from biology.attention.score_terms import Pair, QKAttribution
    from biology.attention.stream_effects import SourceNodes

Arguments = argparse.Namespace
PARTS = (
    "pairs of a node of the query and one of the key",
    "nodes of the query with the key's bias",
    "nodes of the key with the query's bias",
    "bias with bias",
)
"""Names of the parts of a score (`score_terms.Parts`)."""


def attend(args: Arguments) -> None:
    """explain why a head attends: the features of its query and key that match; without --head, which heads the output depends on"""
    from biology.records import InputError

    one = args.layer is not None
    if one != (args.head is not None):
        raise InputError("--layer and --head together name a head: give both or neither.")
    places = {name: getattr(args, name) for name in ("query", "key", "against")}
    if not one and any(place is not None for place in places.values()):
        raise InputError("--query, --key and --against are about one head: name it with --layer and --head.")
    if one and None not in (args.query, args.key) and (args.target or args.explain):
        raise InputError("--target and --explain choose --query and --key: leave these out, or those.")
    entry, _ = subject(args)
    model, transcoders = open_model(entry, Path(), Path(args.model).name, threads=None)
    from biology.attention.output_heads import output_heads
    from biology.attention.qk import check_head, qk_attribution
    from biology.attribution.direct_effects import warn_without_bos
    from biology.models.model import encode, token_batch, token_text
    from biology.models.tokenizer import in_chat

    text = in_chat(model.tokenizer, model.name, args.text) if args.chat else args.text
    ids = encode(model, text)
    warn_without_bos(model, [token_batch(model, ids)], 1)
    tokens = [token_text(model, token) for token in ids]
    target = target_of(model, text, args.target, -1) if args.target else None
    explain = args.explain or ("contrast" if entry.neurons else "logits")
    told: dict[str, Any] = {"model": model.name, "prompt": args.text, "prompt_tokens": tokens}
    if one:
        check_head(model, args.layer, args.head)
    given = {name: place for name, place in places.items() if name != "against"}
    if not one or None in given.values():
        heads = output_heads(model, transcoders, ids, target, explain=explain, **given)
        if not one:
            listed = heads.strongest(args.top)
            if args.json:
                print_json(told | _heads_told(heads, listed))
            else:
                _describe_heads(heads, listed, tokens)
            return
        largest = {"query": int(heads.query[args.layer, args.head]), "key": int(heads.key[args.layer, args.head])}
        places |= {name: largest[name] for name, place in given.items() if place is None}
    found = qk_attribution(model, transcoders, ids, args.layer, args.head, **places)
    shown = _Shown(
        found,
        tokens=_largest(found, args.top),
        pairs=found.top_pairs(args.top),
        queries=found.strongest("query", args.top),
        keys=found.strongest("key", args.top),
    )
    labels = labels_of(roles_of(args), model, transcoders, shown.features(), tokens)
    if args.json:
        print_json(told | _told(shown, labels))
    else:
        _describe(shown, labels, tokens)


def _largest(found: QKAttribution, count: int) -> list[Pair]:
    """The largest pairs of tokens."""
    from biology.attention.score_terms import Pair

    sums = found.by_token()
    order = sums.abs().flatten().argsort(descending=True, stable=True)[:count].tolist()
    places = [divmod(place, sums.shape[1]) for place in order]
    return [Pair(query, key, float(sums[query, key])) for query, key in places if sums[query, key] != 0]


@dataclass(frozen=True, eq=False)
class _Shown:
    """An attributed score, with its pairs and nodes (index, marginal) to show."""

    of: QKAttribution
    tokens: list[Pair]
    """Pairs of tokens, instead of nodes."""
    pairs: list[Pair]
    queries: list[tuple[int, float]]
    keys: list[tuple[int, float]]

    def sides(self) -> tuple[tuple[str, SourceNodes, list[tuple[int, float]]], ...]:
        return ("query", self.of.query_nodes, self.queries), ("key", self.of.key_nodes, self.keys)

    def features(self) -> list[tuple[int, int, int]]:
        """(layer, feature, position) of the features that are shown."""
        from biology.attention.stream_effects import features_among

        there = [(nodes, index) for _, nodes, listed in self.sides() for index, _ in listed]
        for pair in self.pairs:
            there += [(self.of.query_nodes, pair.query), (self.of.key_nodes, pair.key)]
        return features_among(there)


# Words -----------------------------------------------------------------------------------------------------------------


def _place(tokens: list[str], pos: int) -> str:
    return f'"{visible(tokens[pos])}"@{pos}'


def _describe_heads(heads: OutputHeads, listed: list[tuple[int, int]], tokens: list[str]) -> None:
    from biology.attention.edge_heads import head_name

    if not listed:
        print(f"No head brings anything to {visible(heads.label)}.")
        return
    print(
        f'Heads that "{visible(heads.label)}" ({heads.pre_activation:+.2f}) rests on: what it loses without each, and by which step of attention:\n'
    )
    for layer, head in listed:
        at = (layer, head)
        step = f"{_place(tokens, int(heads.query[at]))} attends to {_place(tokens, int(heads.key[at]))}"
        print(
            f"{float(heads.effect[at]):+7.2f}  {head_name(layer, head):<7} {float(heads.step[at]):+7.2f}: {step} with {float(heads.attention[at]):.0%}"
        )
    layer, head = listed[0]
    print(
        "\nPatterns and norms are frozen and active features are linear here. Where a head is really cut, others may step in."
    )
    print(f"Take one apart: --layer {layer} --head {head}")


def _heads_told(heads: OutputHeads, listed: list[tuple[int, int]]) -> dict[str, Any]:
    rows = [
        {"layer": at[0], "head": at[1], "effect": float(heads.effect[at])}
        | {"query": int(heads.query[at]), "key": int(heads.key[at])}
        | {"step": float(heads.step[at]), "attention": float(heads.attention[at])}
        for at in listed
    ]
    return {"target": heads.label, "pre_activation": heads.pre_activation, "heads": rows}


def _describe(shown: _Shown, labels: Mapping[tuple[int, int], str], tokens: list[str]) -> None:
    """Prints a score, its parts, pairs and nodes."""
    from biology.attention.edge_heads import head_name
    from biology.records import InputWarning

    found = shown.of
    against = "" if found.against is None else f" rather than to {_place(tokens, found.against)}"
    step = f"{_place(tokens, found.query)} attends to {_place(tokens, found.key)}{against}"
    share = f"{found.attention:.1%}" if found.against is None else f"{100 * found.attention:+.1f} points"
    capped = "" if found.soft_cap is None else f", before the soft-cap at {found.soft_cap:g}"
    print(f"{head_name(found.layer, found.head)}: {step} (attention {share}, score {found.score:+.3f}{capped})")
    most = [
        key for key in found.row.argsort(descending=True, stable=True)[:5].tolist() if float(found.row[key]) >= 0.005
    ]
    print(
        "All it attends to: " + ", ".join(f"{_place(tokens, key)} {float(found.row[key]):.0%}" for key in most) + "\n"
    )
    for part, words in zip(found.parts, PARTS, strict=True):
        print(f"{part:+8.3f}  {words}")
    print(f"{found.total:+8.3f}  in all, which is the score to within {found.residual:.1e} of these parts")
    if not found.residual <= INEXACT:
        warnings.warn(
            f"the parts of the score are off by {found.residual:.1e}, more than {INEXACT:.0e}: they do not explain it (half precision "
            "does this; attend in float32)",
            InputWarning,
            stacklevel=2,
        )
    print("\nPairs by token (all nodes of the query at one x all of the key at the other):")
    for pair in shown.tokens:
        print(f"{pair.value:+8.3f}  {_place(tokens, pair.query)} x {_place(tokens, pair.key)}")
    print("\nStrongest pairs of nodes (query x key):")
    for pair in shown.pairs:
        query, key = found.query_nodes.label(pair.query, labels), found.key_nodes.label(pair.key, labels)
        print(f"{pair.value:+8.3f}  {visible(query)} x {visible(key)}")
    for side, nodes, listed in shown.sides():
        print(f"\nStrongest nodes of the {side} (what the score loses without each):")
        for index, value in listed:
            print(f"{value:+8.3f}  {visible(nodes.label(index, labels))}")


def _told(shown: _Shown, labels: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    """The output of `_describe` as data."""
    found = shown.of

    def node(nodes: SourceNodes, index: int) -> dict[str, str]:
        return {"node": nodes.node_id(index), "label": nodes.label(index, labels)}

    plain = ("layer", "head", "query", "key", "against", "score", "attention", "soft_cap", "residual")
    pairs = [
        {"query": node(found.query_nodes, pair.query), "key": node(found.key_nodes, pair.key), "value": pair.value}
        for pair in shown.pairs
    ]
    sides = {
        f"{side}_nodes": [node(nodes, index) | {"value": value} for index, value in listed]
        for side, nodes, listed in shown.sides()
    }
    told = {name: getattr(found, name) for name in plain} | {"parts": found.parts._asdict(), "row": found.row.tolist()}
    return told | {"token_pairs": [pair._asdict() for pair in shown.tokens], "pairs": pairs} | sides
