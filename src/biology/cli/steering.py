"""Steering from the terminal: hold features on any prompt at any strength, and see the model's answer.

A supernode is named as in the reports, CASE/PROMPT/NAME. It has its members and activations on that prompt, from the pipeline's
output, else from the shipped tables (`named_members.py`), else found now. On a prompt of the case it is held where the prompt's
own members of that name are. Features can also be given one by one, as LAYER/FEATURE or LAYER/FEATURE=VALUE.

The control is shown beside it: sets of other active features of the same layers, as many and with the same size of push.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from biology.cases.positions import CHAT
from biology.cli.arguments import real
from biology.cli.opening import configuration, of_corpus, open_model, subject
from biology.models.text import continuation, visible
from biology.printing import print_json

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.case import Case
    from biology.config import Config, ModelConfig
    from biology.interventions.held_features import HeldFeatures

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Grouped:
    """The supernodes of a case: table `supernodes`, the text of each prompt, and the texts that are asked in a chat."""

    members: pd.DataFrame
    text: dict[str, str]
    chats: frozenset[str] = frozenset()


def steer(args: Arguments) -> None:
    """hold a supernode or single features while the model answers a prompt of your own, before and after side by side"""
    from biology.records import InputError

    if not (args.supernode or args.features):
        raise InputError("say what to hold: --supernode CASE/PROMPT/NAME or --features LAYER/FEATURE,...")
    if args.everywhere and args.at is not None:
        raise InputError("give either --at or --everywhere.")
    named = [*(args.suppress or ()), *(args.supernode or ())]
    if twice := [name for name in named if named.count(name) > 1]:
        raise InputError(f"{twice[0]} is named twice: a supernode is held or suppressed, and once.")
    from biology.interventions.held_features import DRAWS, at_every_token, first_row, hold_features, no_edits, said, top

    entry, _ = subject(args)
    held: HeldFeatures = {}
    tables: dict[str, Grouped] = {}
    for sign, names in ((-1.0, args.suppress), (1.0, args.supernode)):
        for name in names or ():
            found = _members(args, name, tables).items()
            held |= {site: replace(one, factor=sign) for site, one in found}
    held |= _features(args.features)
    model, transcoders = open_model(entry, Path(), Path(args.model).name, threads=None)
    from biology.interventions.generation import generate
    from biology.models.model import encode, token_text
    from biology.models.tokenizer import in_chat

    for text in {text for grouped in tables.values() for text in grouped.chats}:
        made = in_chat(model.tokenizer, model.name, text)
        mine = {site: one for site, one in held.items() if one.taken is not None and one.taken[0] == text}
        held |= {site: replace(one, taken=(made, one.taken[1])) for site, one in mine.items() if one.taken is not None}
    ids = encode(model, in_chat(model.tokenizer, model.name, args.text) if args.chat else args.text)
    if len(ids) + args.tokens - 1 > model.n_context:
        raise InputError(
            f"--tokens {args.tokens}: after the {len(ids)} tokens of the prompt {model.name} can write "
            f"at most {max(0, model.n_context + 1 - len(ids))}."
        )
    held_at = hold_features(model, transcoders, ids, held, strength=args.strength, at=args.at)
    pushed, control = held_at.edits, held_at.control()
    stop = getattr(model.tokenizer, "eos_token_id", None)
    columns, written = [], []
    for arm, n_rows in ((no_edits(pushed), 1), (pushed, 1), (control, DRAWS)):
        fixed, every = (no_edits(arm), at_every_token(model, arm, ids)) if args.everywhere else (arm, None)
        columns.append(top(model, said(model, transcoders, [ids] * n_rows, fixed, every), args.top))
        first = first_row(fixed), None if every is None else first_row(every)
        tokens = generate(model, transcoders, [ids], first[0], args.tokens, open_ended=first[1], stop=stop)[0]
        written.append(continuation(model.tokenizer, ids, [token for token in tokens if token != stop]))
    places = [{"pos": pos, "token": token_text(model, ids[pos])} for pos in sorted(set(pushed.pos.tolist()))]
    if args.json:
        arms = zip(("by_itself", "steered", "control"), columns, written, strict=True)
        print_json(
            {"prompt": args.text, "model": model.name, "features": len(held), "strength": args.strength}
            | {"at": "everywhere" if args.everywhere else places, "control_sets": DRAWS}
            | {
                arm: {"next": [{"token": word, "probability": p} for word, p in likely], "writes": text}
                for arm, likely, text in arms
            }
        )
        return
    named = [f'{place["pos"]} ("{visible(place["token"])}")' for place in places]
    where = "every token" if args.everywhere else f"token {' and '.join(named)}"
    print(f"{len(held)} features held at M = {args.strength:g} on {where}\n")
    print(f"{'by itself':<34}{'steered':<34}control: other features, pushed as hard (mean of {DRAWS} sets)")
    for row in zip(*columns, strict=True):
        print("".join(f"{p:7.2%}  {_quoted(word):<25}" for word, p in row).rstrip())
    if args.tokens > 1:
        print()
        for who, text in zip(
            ("by itself it writes:", "steered it writes:", "the first control set writes:"), written, strict=True
        ):
            print(f"{who:<29}{_quoted(text)}")


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'


def _members(args: Arguments, name: str, found: dict[str, Grouped]) -> HeldFeatures:
    """Members of CASE/PROMPT/NAME with their activations there, and their positions on other prompts. `found` caches the cases
    looked up."""
    from biology.interventions.held_features import HeldFeature
    from biology.records import InputError

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
    same = same if (args.text in found[case].chats) == args.chat else []  # its tokens stand elsewhere in a chat
    own = table[table["item"].isin(same) & (table["supernode"] == supernode)]
    at = int(own["pos"].iat[0]) if len(own) and args.at is None else None
    text = found[case].text[item]
    columns = zip(*(rows[column].tolist() for column in ("layer", "feature", "activation", "pos")), strict=True)
    return {(layer, feature): HeldFeature(value, at, taken=(text, pos)) for layer, feature, value, pos in columns}


def _grouped(args: Arguments, case: str) -> Grouped:
    """The supernodes of a case: from the pipeline's output, or found now."""
    from biology.cases.case import load_case
    from biology.supernodes.named_members import shipped_members
    from biology.tables import read_table

    config, root = configuration(args, shipped=True)
    entry = config.model(args.model)
    folder = root / "data/runs" / args.model / case
    if (folder / "supernodes.parquet").is_file():
        prompts = read_table(folder / "prompts.parquet", "prompts")
        members = read_table(folder / "supernodes.parquet", "supernodes")
        chats = frozenset(prompts.loc[prompts[CHAT] != "", "text"]) if CHAT in prompts else frozenset()
        return Grouped(members, dict(zip(prompts["item"], prompts["text"], strict=True)), chats)
    read = of_corpus(load_case(root, case, entry.prompts, entry.at_most), entry, root)
    members = None if args.transcoders else shipped_members(root, entry, args.model, read)
    if members is not None:
        shown = read.prompts
        return Grouped(members, {name: one.text for name, one in shown.items()}, _chats(read))
    return _found_now(config, root, entry, args.model, read)


def _found_now(config: Config, root: Path, entry: ModelConfig, name: str, case: Case) -> Grouped:
    """The supernodes of a case, found without the pipeline."""
    from biology.evidence.case_evidence import fresh_context

    why = f"No results of the pipeline for '{case.name}' yet: finding its supernodes first (`make figures` keeps them)."
    print(why, file=sys.stderr)
    model, transcoders = open_model(entry, root, name, config.threads)
    members = fresh_context(model, transcoders, case, config.statistics).members
    texts = {item.item: item.text for item in case.items} | {name: shown.text for name, shown in case.prompts.items()}
    return Grouped(members, texts, _chats(case))


def _chats(case: Case) -> frozenset[str]:
    """The texts that the case asks in a chat."""
    named = {one.text for one in case.prompts.values() if one.chat}
    return frozenset(named | {item.text for item in case.items if item.factors.get(CHAT)})


def _features(text: str | None) -> HeldFeatures:
    """Parses features such as `2/120,3/45=1.5`."""
    from biology.interventions.held_features import HeldFeature
    from biology.records import InputError

    held: HeldFeatures = {}
    for piece in text.split(",") if text else ():
        found = re.fullmatch(r"\s*(\d+)/(\d+)(?:=(\S*))?\s*", piece)
        if not found:
            raise InputError(
                f"--features takes LAYER/FEATURE or LAYER/FEATURE=VALUE with commas between, not '{piece}'."
            )
        if (int(found[1]), int(found[2])) in held:
            raise InputError(f"--features {piece.strip()}: feature {found[1]}/{found[2]} is given twice.")
        try:
            held[int(found[1]), int(found[2])] = HeldFeature(None if found[3] is None else real()(found[3]))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--features {piece.strip()}: a feature's activation {error}.") from None
    return held
