"""Steering from the terminal: hold features of any prompt at any strength, and see what the model says.

A supernode is named as in the reports, CASE/PROMPT/NAME: its members and their activations are those of that prompt, as
the stages `cache` and `group` left them. Features can also be given one by one, as LAYER/FEATURE or LAYER/FEATURE=VALUE.
"""

from __future__ import annotations

import argparse
import re
import sys
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
Held = dict[tuple[int, int], float | None]
"""Activation at M = 1 of each (layer, feature); None: the one that it has on the prompt."""


def steer(args: Arguments) -> None:
    """hold a supernode or single features while the model answers a prompt of your own, before and after side by side"""
    from biology.config import InputError

    if not (args.supernode or args.features):
        raise InputError("say what to hold: --supernode CASE/PROMPT/NAME or --features LAYER/FEATURE,...")
    entry, _ = subject(args)
    held: Held = {}
    tables: dict[str, pd.DataFrame] = {}
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
    every = _everywhere(model, pushed, ids, args.at) if args.everywhere else None
    fixed = edits([]) if args.everywhere else pushed
    stop = getattr(model.tokenizer, "eos_token_id", None)
    sides = []
    for arms in ((edits([]), None), (fixed, every)):
        said = _top(model, transcoders, ids, *arms, count=args.top)
        written = generate(model, transcoders, [ids], arms[0], args.tokens, open_ended=arms[1], stop=stop)[0]
        sides.append((said, continuation(model.tokenizer, ids, [token for token in written if token != stop])))
    where = (
        "every token"
        if args.everywhere
        else f'token {args.at % len(ids)} ("{visible(token_text(model, ids[args.at]))}")'
    )
    print(f"{len(held)} features held at M = {args.strength:g} on {where}\n")
    print(f"{'by itself':<34}steered")
    for (before, p), (after, q) in zip(sides[0][0], sides[1][0], strict=True):
        print(f"{p:7.2%}  {_quoted(before):<25}{q:7.2%}  {_quoted(after)}")
    if args.tokens > 1:
        print(f"\nby itself it writes: {_quoted(sides[0][1])}\nsteered it writes:   {_quoted(sides[1][1])}")


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'


def _members(args: Arguments, name: str, found: dict[str, pd.DataFrame]) -> dict[tuple[int, int], float]:
    """Members of CASE/PROMPT/NAME with their activations there. `found` keeps the tables of cases that were looked up."""
    from biology.config import InputError

    if not re.fullmatch(r"[^/]+/[^/]+/[^/]+", name):
        raise InputError(f"a supernode is named CASE/PROMPT/NAME, such as multi_hop/oakland/bridge, not '{name}'.")
    case, item, supernode = name.split("/")
    if case not in found:
        found[case] = _table(args, case)
    there = found[case][found[case]["item"] == item]
    if not len(there):
        known = ", ".join(found[case]["item"].unique()[:8])
        raise InputError(f"case '{case}' has no members on a prompt '{item}'. Some prompts that it knows: {known}.")
    rows = there[there["supernode"] == supernode]
    if not len(rows):
        raise InputError(f"'{item}' has no supernode '{supernode}', only {', '.join(there['supernode'].unique())}.")
    columns = zip(rows["layer"].tolist(), rows["feature"].tolist(), rows["activation"].tolist(), strict=True)
    return {(layer, feature): value for layer, feature, value in columns}


def _table(args: Arguments, case: str) -> pd.DataFrame:
    """Table `supernodes` of a case: as the pipeline left it, or found now by the rules."""
    from biology.case import load_case
    from biology.tables import read_table

    config, root = configuration(args)
    entry = config.model(args.model)
    path = root / "data/runs" / args.model / case / "supernodes.parquet"
    if path.is_file():
        return read_table(path, "supernodes")
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
    return group(model, transcoders, read, prompts, features, operands)


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
            held[int(found[1]), int(found[2])] = None if found[3] is None else real()(found[3])
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--features {piece.strip()}: a feature's activation {error}.") from None
    return held


def _edits(
    model: Model, transcoders: TranscoderSet, ids: list[int], held: Held, at: int, strength: float
) -> Edits:  # fmt: skip
    """The features at `strength` times their activations, at one token of the prompt."""
    import torch

    from biology.activations import cache_features
    from biology.config import InputError
    from biology.interventions import edits

    if not -len(ids) <= at < len(ids):
        raise InputError(f"--at {at}: the prompt has {len(ids)} tokens.")
    pos = at % len(ids)
    for layer, feature in held:
        if layer >= transcoders.n_layers or feature >= transcoders.n_features[layer]:
            raise InputError(
                f"feature {layer}/{feature} does not exist: see `biology load --model` for layers and sizes."
            )
    cache = cache_features(model, transcoders, [ids])
    active = {
        (layer, int(feature)): float(value)
        for layer in range(transcoders.n_layers)
        for feature, value in zip(*(part.tolist() for part in cache.cell(0, layer, pos)), strict=True)
    }
    rows = []
    for (layer, feature), value in held.items():
        here = active.get((layer, feature)) if value is None else value
        if here is None:
            raise InputError(
                f"feature {layer}/{feature} is not active at token {pos} of this prompt, so there is nothing to multiply: "
                f"say how active it is to be, as {layer}/{feature}=1.5 (the atlas shows its largest activation)."
            )
        if not (strength * here) ** 2 <= torch.finfo(model.dtype).max:  # norms square it
            raise InputError(f"feature {layer}/{feature} at {strength:g} times {here:g} is too much for {model.dtype}.")
        rows.append((0, layer, pos, feature, strength * here))
    return edits(rows)


def _everywhere(model: Model, pushed: Edits, ids: list[int], at: int) -> Edits:
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
