"""Steering from the terminal: hold features of any prompt at any strength, and see what the model says.

A supernode is named as in the reports, CASE/PROMPT/NAME: its members and their activations are those of that prompt, as
the stages `cache` and `group` left them. On a prompt of the case they are held where its own members of that name are. Features can also be given one by one, as LAYER/FEATURE or LAYER/FEATURE=VALUE.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from biology.arguments import real
from biology.opening import configuration, of_corpus, open_model
from biology.text import continuation, visible
from biology.tracing import subject

if TYPE_CHECKING:
    import pandas as pd

    from biology.interventions import Edits
    from biology.model import Model
    from biology.transcoders import TranscoderSet

Arguments = argparse.Namespace
Held = dict[tuple[int, int, int | None], float | None]
"""Activation at M = 1 of each (layer, feature, position); None: the one that it has on the prompt, and the token of `--at`."""


@dataclass(frozen=True)
class Grouped:
    """What a case's rules find: table `supernodes`, and the text of each of its prompts."""

    members: pd.DataFrame
    text: dict[str, str]


def steer(args: Arguments) -> None:
    """hold a supernode or single features while the model answers a prompt of your own, before and after side by side"""
    from biology.config import InputError

    if not (args.supernode or args.features):
        raise InputError("say what to hold: --supernode CASE/PROMPT/NAME or --features LAYER/FEATURE,...")
    entry, _ = subject(args)
    held: Held = {}
    tables: dict[str, Grouped] = {}
    for sign, names in ((-1.0, args.suppress), (1.0, args.supernode)):
        for name in names or ():
            held |= {site: sign * value for site, value in _members(args, name, tables).items()}
    held |= _features(args.features)
    model, transcoders = open_model(entry, Path(), Path(args.model).name, threads=None)
    from biology.generation import generate
    from biology.interventions import edits
    from biology.model import encode, token_text

    ids = encode(model, args.text)
    if len(ids) + args.tokens - 1 > model.n_context:
        raise InputError(
            f"--tokens {args.tokens}: after the {len(ids)} tokens of the prompt {model.name} can write "
            f"{max(0, model.n_context + 1 - len(ids))} at most."
        )
    pushed = _edits(model, transcoders, ids, held, args.at, args.strength)
    every = _everywhere(model, pushed, ids) if args.everywhere else None
    fixed = edits([]) if args.everywhere else pushed
    stop = getattr(model.tokenizer, "eos_token_id", None)
    sides = []
    for arms in ((edits([]), None), (fixed, every)):
        said = _top(model, transcoders, ids, *arms, count=args.top)
        written = generate(model, transcoders, [ids], arms[0], args.tokens, open_ended=arms[1], stop=stop)[0]
        sides.append((said, continuation(model.tokenizer, ids, [token for token in written if token != stop])))
    named = [f'{pos} ("{visible(token_text(model, ids[pos]))}")' for pos in sorted(set(pushed.pos.tolist()))]
    where = "every token" if args.everywhere else f"token {' and '.join(named)}"
    print(f"{len(held)} features held at M = {args.strength:g} on {where}\n")
    print(f"{'by itself':<34}steered")
    for (before, p), (after, q) in zip(sides[0][0], sides[1][0], strict=True):
        print(f"{p:7.2%}  {_quoted(before):<25}{q:7.2%}  {_quoted(after)}")
    if args.tokens > 1:
        print(f"\nby itself it writes: {_quoted(sides[0][1])}\nsteered it writes:   {_quoted(sides[1][1])}")


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'


def _members(args: Arguments, name: str, found: dict[str, Grouped]) -> dict[tuple[int, int, int | None], float]:
    """Members of CASE/PROMPT/NAME with their activations there, and where they are held. `found` keeps cases that were looked up."""
    from biology.config import InputError

    if not re.fullmatch(r"[^/]+/[^/]+/[^/]+", name):
        raise InputError(f"a supernode is named CASE/PROMPT/NAME, such as multi_hop/oakland/bridge, not '{name}'.")
    case, item, supernode = name.split("/")
    if case not in found:
        found[case] = _grouped(args, case)
    table = found[case].members
    there = table[table["item"] == item]
    if not len(there):
        known = ", ".join(table["item"].unique()[:8])
        raise InputError(f"case '{case}' has no members on a prompt '{item}'. Some prompts that it knows: {known}.")
    rows = there[there["supernode"] == supernode]
    if not len(rows):
        raise InputError(f"'{item}' has no supernode '{supernode}', only {', '.join(there['supernode'].unique())}.")
    same = [one for one, text in found[case].text.items() if text == args.text]
    own = table[table["item"].isin(same) & (table["supernode"] == supernode)]
    at = int(own["pos"].iat[0]) if len(own) and args.at is None else None
    columns = zip(rows["layer"].tolist(), rows["feature"].tolist(), rows["activation"].tolist(), strict=True)
    return {(layer, feature, at): value for layer, feature, value in columns}


def _grouped(args: Arguments, case: str) -> Grouped:
    """What the rules of a case find: as the pipeline left it, or found now."""
    from biology.case import load_case
    from biology.tables import read_table

    config, root = configuration(args)
    entry = config.model(args.model)
    folder = root / "data/runs" / args.model / case
    if (folder / "supernodes.parquet").is_file():
        prompts = read_table(folder / "prompts.parquet", "prompts")
        members = read_table(folder / "supernodes.parquet", "supernodes")
        return Grouped(members, dict(zip(prompts["item"], prompts["text"], strict=True)))
    from biology.behaviour import prompts_table
    from biology.locating import find_sites
    from biology.operand_tables import read_grid
    from biology.settled import settled
    from biology.supernodes import group

    read = of_corpus(load_case(root, case, entry.prompts), entry, root)
    why = f"No results of the pipeline for '{case}' yet: finding its supernodes first (`make figures` keeps them)."
    print(why, file=sys.stderr)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    features, prompts = prompts_table(model, transcoders, read)
    read = settled(read, find_sites(model, read, prompts, config.statistics.seed))
    operands, _ = read_grid(model, transcoders, read, prompts, features, config.statistics.seed)
    members = group(model, transcoders, read, prompts, features, operands)
    return Grouped(members, dict(zip(prompts["item"], prompts["text"], strict=True)))


def _features(text: str | None) -> Held:
    """Features from `2/120,3/45=1.5`."""
    from biology.config import InputError

    held: Held = {}
    for piece in filter(None, (text or "").split(",")):
        found = re.fullmatch(r"\s*(\d+)/(\d+)(?:=(\S*))?\s*", piece)
        if not found:
            raise InputError(
                f"--features takes LAYER/FEATURE or LAYER/FEATURE=VALUE with commas between, not '{piece}'."
            )
        try:
            held[int(found[1]), int(found[2]), None] = None if found[3] is None else real()(found[3])
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--features {piece.strip()}: a feature's activation {error}.") from None
    return held


def _edits(
    model: Model, transcoders: TranscoderSet, ids: list[int], held: Held, at: int | None, strength: float
) -> Edits:  # fmt: skip
    """The features at `strength` times their activations, at their token of the prompt."""
    import torch

    from biology.activations import cache_features
    from biology.config import InputError
    from biology.interventions import edits

    if at is not None and not -len(ids) <= at < len(ids):
        raise InputError(f"--at {at}: the prompt has {len(ids)} tokens.")
    elsewhere = (-1 if at is None else at) % len(ids)
    for layer, feature, _ in held:
        if layer >= transcoders.n_layers or feature >= transcoders.n_features[layer]:
            raise InputError(
                f"feature {layer}/{feature} does not exist: see `biology load --model` for layers and sizes."
            )
    cache = cache_features(model, transcoders, [ids])
    rows = []
    for (layer, feature, own), value in held.items():
        pos = elsewhere if own is None else own
        here = value
        if value is None:
            features, values = cache.cell(0, layer, pos)
            here = dict(zip(features.tolist(), values.tolist(), strict=True)).get(feature)
        if here is None:
            raise InputError(
                f"feature {layer}/{feature} is not active at token {pos} of this prompt, so there is nothing to multiply: "
                f"say how active it is to be, as {layer}/{feature}=1.5 (the atlas shows its largest activation)."
            )
        if not (strength * here) ** 2 <= torch.finfo(model.dtype).max:  # norms square it
            raise InputError(f"feature {layer}/{feature} at {strength:g} times {here:g} is too much for {model.dtype}.")
        rows.append((0, layer, pos, feature, strength * here))
    return edits(rows)


def _everywhere(model: Model, pushed: Edits, ids: list[int]) -> Edits:
    """The same at every token after the BOS, new ones included."""
    from dataclasses import replace

    first = 1 if model.bos_token is not None and ids[0] == model.bos_token else 0
    return replace(pushed, pos=pushed.pos * 0 + first)


def _top(
    model: Model, transcoders: TranscoderSet, ids: list[int], fixed: Edits, every: Edits | None, count: int
) -> list[tuple[str, float]]:
    """The most probable next tokens under edits at one token, or at every one from theirs on."""
    import torch

    from biology.config import InputError
    from biology.generation import extended
    from biology.interventions import concatenate, intervene
    from biology.model import token_text

    held = fixed if every is None else concatenate([fixed, extended(every, [ids])])
    outcome = intervene(
        model, transcoders, [ids], torch.zeros(1, dtype=torch.long), held, protocol="iterative", live_attention=True
    )
    probabilities = outcome.logits[0, 0].double().softmax(-1)
    if not bool(probabilities.isfinite().all()):
        raise InputError("held at such values, the model computes no numbers any more: hold the features at less.")
    best = probabilities.topk(min(count, model.n_vocab))
    return [(token_text(model, int(t)), float(p)) for p, t in zip(best.values, best.indices, strict=True)]
