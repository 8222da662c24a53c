"""Steering from the terminal: hold features of any prompt at any strength, and see what the model says.

A supernode is named as in the reports, CASE/PROMPT/NAME: its members and their activations are those of that prompt, as the pipeline
left them, as they ship (`named_members.py`), or else found now. On a prompt of the case they are held where its own members of that
name are. Features can also be given one by one, as LAYER/FEATURE or LAYER/FEATURE=VALUE.

Beside what is steered stands its control: sets of other active features of the same layers, as many and pushed as hard.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from biology.arguments import real
from biology.opening import configuration, of_corpus, open_model
from biology.text import continuation, visible
from biology.tracing import subject

if TYPE_CHECKING:
    import pandas as pd

    from biology.case import Case
    from biology.config import Config, ModelConfig
    from biology.interventions import Edits
    from biology.model import Model
    from biology.transcoders import TranscoderSet

Arguments = argparse.Namespace
DRAWS = 10
"""Sets of other features that the control holds."""


@dataclass(frozen=True)
class Holding:
    """How a feature is held: its activation at M = 1 and the token, if they are known, and where it was taken from."""

    value: float | None = None
    """None: the one that it has on the prompt."""
    at: int | None = None
    """None: the token of `--at`."""
    taken: tuple[str, int] | None = None
    """The prompt, and the token there, whose active features stand for it in the control; None: those of the prompt itself."""


Held = dict[tuple[int, int], Holding]
"""Features by layer and index."""


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
            found = _members(args, name, tables).items()
            held |= {site: replace(one, value=sign * (one.value or 0.0)) for site, one in found}
    held |= _features(args.features)
    model, transcoders = open_model(entry, Path(), Path(args.model).name, threads=None)
    from biology.generation import generate
    from biology.model import encode, token_text

    ids = encode(model, args.text)
    if len(ids) + args.tokens - 1 > model.n_context:
        raise InputError(
            f"--tokens {args.tokens}: after the {len(ids)} tokens of the prompt {model.name} can write "
            f"{max(0, model.n_context + 1 - len(ids))} at most."
        )
    pushed, control = _pushes(model, transcoders, ids, held, args)
    nothing = replace(pushed, **{name: value[:0] for name, value in vars(pushed).items()})
    stop = getattr(model.tokenizer, "eos_token_id", None)
    said, written = [], []
    for arm, n_rows in ((nothing, 1), (pushed, 1), (control, DRAWS)):
        fixed, every = (nothing, _everywhere(model, arm, ids)) if args.everywhere else (arm, None)
        said.append(_top(model, transcoders, [ids] * n_rows, fixed, every, count=args.top))
        first = [part if part is None else _first_row(part) for part in (fixed, every)]
        tokens = generate(model, transcoders, [ids], first[0], args.tokens, open_ended=first[1], stop=stop)[0]
        written.append(continuation(model.tokenizer, ids, [token for token in tokens if token != stop]))
    named = [f'{pos} ("{visible(token_text(model, ids[pos]))}")' for pos in sorted(set(pushed.pos.tolist()))]
    where = "every token" if args.everywhere else f"token {' and '.join(named)}"
    print(f"{len(held)} features held at M = {args.strength:g} on {where}\n")
    print(f"{'by itself':<34}{'steered':<34}control: other features, pushed as hard (mean of {DRAWS} sets)")
    for row in zip(*said, strict=True):
        print("".join(f"{p:7.2%}  {_quoted(word):<25}" for word, p in row).rstrip())
    if args.tokens > 1:
        for who, text in zip(("by itself it writes:", "steered it writes:", "the first set writes:"), written, strict=True):
            print(f"{who:<22}{_quoted(text)}" if who != "by itself it writes:" else f"\n{who:<22}{_quoted(text)}")


def _first_row(edited: Edits) -> Edits:
    """The edits of the first of several rows."""
    return replace(edited, **{name: value[edited.row == 0] for name, value in vars(edited).items()})


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'


def _members(args: Arguments, name: str, found: dict[str, Grouped]) -> Held:
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
    text = found[case].text[item]
    columns = zip(*(rows[column].tolist() for column in ("layer", "feature", "activation", "pos")), strict=True)
    return {(layer, feature): Holding(value, at, (text, pos)) for layer, feature, value, pos in columns}


def _grouped(args: Arguments, case: str) -> Grouped:
    """What the rules of a case find: as the pipeline left it, or found now."""
    from biology.case import load_case
    from biology.named_members import shipped_members
    from biology.tables import read_table

    config, root = configuration(args)
    entry = config.model(args.model)
    folder = root / "data/runs" / args.model / case
    if (folder / "supernodes.parquet").is_file():
        prompts = read_table(folder / "prompts.parquet", "prompts")
        members = read_table(folder / "supernodes.parquet", "supernodes")
        return Grouped(members, dict(zip(prompts["item"], prompts["text"], strict=True)))
    read = of_corpus(load_case(root, case, entry.prompts), entry, root)
    members = None if args.transcoders else shipped_members(root, entry, args.model, read)
    if members is not None:
        return Grouped(members, {name: shown.text for name, shown in read.prompts.items()})
    return _found_now(config, root, entry, args.model, read)


def _found_now(config: Config, root: Path, entry: ModelConfig, name: str, read: Case) -> Grouped:
    """What the rules of a case find, without the pipeline."""
    from biology.behaviour import prompts_table
    from biology.locating import find_sites
    from biology.operand_tables import read_grid
    from biology.settled import settled
    from biology.supernodes import group

    why = f"No results of the pipeline for '{read.name}' yet: finding its supernodes first (`make figures` keeps them)."
    print(why, file=sys.stderr)
    model, transcoders = open_model(entry, root, name, config.threads)
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
            held[int(found[1]), int(found[2])] = Holding(None if found[3] is None else real()(found[3]))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--features {piece.strip()}: a feature's activation {error}.") from None
    return held


def _pushes(
    model: Model, transcoders: TranscoderSet, ids: list[int], held: Held, args: Arguments
) -> tuple[Edits, Edits]:
    """The features at `--strength` times their activations, at their token of the prompt; and `DRAWS` rows of matched ones."""
    import numpy
    import torch

    from biology.activations import cache_features
    from biology.config import InputError
    from biology.controls import matched_sets
    from biology.interventions import edits
    from biology.model import encode

    at, strength = args.at, args.strength

    if at is not None and not -len(ids) <= at < len(ids):
        raise InputError(f"--at {at}: the prompt has {len(ids)} tokens.")
    elsewhere = (-1 if at is None else at) % len(ids)
    for layer, feature in held:
        if layer >= transcoders.n_layers or feature >= transcoders.n_features[layer]:
            raise InputError(
                f"feature {layer}/{feature} does not exist: see `biology load --model` for layers and sizes."
            )
    texts = list(dict.fromkeys(one.taken[0] for one in held.values() if one.taken is not None))
    cache = cache_features(model, transcoders, [ids, *(encode(model, text) for text in texts)])
    rows, pool = [], []
    for (layer, feature), one in held.items():
        pos = elsewhere if one.at is None else one.at
        here = one.value
        if here is None:
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
        # what is put in is matched by what is active where it comes from, what is taken away by what is active here
        pool.append((0, pos) if one.taken is None or strength * here <= 0 else (1 + texts.index(one.taken[0]), one.taken[1]))
    pushed, of = edits(rows), torch.tensor(pool, dtype=torch.long).reshape(-1, 2)
    generator = numpy.random.default_rng(0)
    control = matched_sets(
        transcoders, cache, torch.tensor([0]), pushed, generator, draws=DRAWS, pool_prompt=of[:, 0], pool_pos=of[:, 1]
    )
    return pushed, control.edits


def _everywhere(model: Model, pushed: Edits, ids: list[int]) -> Edits:
    """The same at every token after the BOS, new ones included."""
    first = 1 if model.bos_token is not None and ids[0] == model.bos_token else 0
    return replace(pushed, pos=pushed.pos * 0 + first)


def _top(
    model: Model, transcoders: TranscoderSet, prompts: list[list[int]], fixed: Edits, every: Edits | None, count: int
) -> list[tuple[str, float]]:
    """The next tokens that are most probable in the mean of some rows, under edits at one token or at every one from theirs on."""
    import torch

    from biology.config import InputError
    from biology.generation import extended
    from biology.interventions import concatenate, intervene
    from biology.model import token_text

    held = fixed if every is None else concatenate([fixed, extended(every, prompts)])
    outcome = intervene(
        model, transcoders, prompts, torch.arange(len(prompts)), held, protocol="iterative", live_attention=True
    )
    probabilities = outcome.logits[:, 0].double().softmax(-1).mean(0)
    if not bool(probabilities.isfinite().all()):
        raise InputError("held at such values, the model computes no numbers any more: hold the features at less.")
    best = probabilities.topk(min(count, model.n_vocab))
    return [(token_text(model, int(t)), float(p)) for p, t in zip(best.values, best.indices, strict=True)]
