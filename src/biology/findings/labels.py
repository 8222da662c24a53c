"""Words for features. A label is derived from what is known of a feature, never typed, and states its evidence.

    Texas                       a role: rules of a case find it for these prompts
    promotes "Austin", "45"     the tokens that its decoders clearly raise
    fires on "Dallas"           the tokens on which it is most active
    (nothing)                   if none of this is clear

Roles come first, since they rest on many prompts. They ship as `reports/<model>/labels.json`. A feature may have several. In a
graph a node shows only the roles that rules look for at its token: a feature of "Cleveland" is not called Cleveland at "capital".
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from biology.cases.case import Case, called
from biology.cases.found_sites import with_found_sites
from biology.models.text import visible, whole_word
from biology.tables import Tables

Place = tuple[int, int]
"""A feature: its layer and its index."""
MOST = 3
"""Largest number of words in a label."""
MORE = " …"
"""Follows the words of a label that could have more of them."""
LEAST = 0.4
"""Smallest strength of a role, as a share of the feature's largest activation on any prompt of the atlas."""
KEPT = 4
"""Largest number of roles kept for a feature at one text."""
LAST, ANYWHERE = "$", "*"
"""In place of the texts of a role: a prompt's last token; any token."""


class Label(NamedTuple):
    """A label with its evidence: `role`, `promotes`, `fires on`, or nothing."""

    text: str
    evidence: str


def label(roles: Sequence[str] = (), promotes: Sequence[str] = (), fires_on: Sequence[str] = ()) -> Label:
    """The label of a feature: its roles, or what it promotes or fires on, strongest first."""
    if roles:
        return Label(" / ".join(roles[:MOST]) + (MORE if len(roles) > MOST else ""), "role")
    for evidence, tokens in (("promotes", promotes), ("fires on", fires_on)):
        if tokens:
            return Label(f"{evidence} " + ", ".join(f'"{visible(token)}"' for token in tokens[:MOST]), evidence)
    return Label("", "")


@dataclass(frozen=True)
class Roles:
    """The roles of features."""

    of: Mapping[Place, Sequence[str]] = field(default_factory=dict)
    """Roles of each feature, strongest first."""
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The texts at whose last piece each role is looked for; LAST, ANYWHERE."""

    def at(self, place: Place, tokens: Sequence[str], pos: int) -> list[str]:
        """The roles of a feature that are looked for at this token of a prompt, strongest first."""
        word, last = whole_word(tokens, pos).removeprefix(" "), pos == len(tokens) - 1
        return [role for role in self.of.get(place, ()) if any(_fits(text, word, last) for text in self.texts[role])]

    def grouped(
        self, features: Sequence[tuple[int, int, int]], tokens: Sequence[str]
    ) -> dict[tuple[str, int], list[int]]:
        """The features (layer, index, position) that have a role at their token, by the first of their roles and by position: their places
        in the list."""
        found: dict[tuple[str, int], list[int]] = {}
        for place, (layer, feature, pos) in enumerate(features):
            for role in self.at((layer, feature), tokens, pos)[:1]:
                found.setdefault((role, pos), []).append(place)
        return found


def _fits(text: str, word: str, last: bool) -> bool:
    return text == ANYWHERE or (last if text == LAST else bool(word) and text.endswith(word))


def role_weights(case: Case, tables: Tables) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """How much each feature belongs to each role, and the texts of each role.

    A role is the title of a supernode on a prompt, such as Texas. Columns: layer, feature, role; `total`, the feature's summed
    activation as a member, over all prompts on which a supernode has this title; `weight`, its mean over these prompts (0 where it
    is not a member).
    """
    members, prompts = tables["supernodes"], tables["prompts"].set_index("item")
    rules = with_found_sites(case, tables["sites"]).supernodes
    pairs = members[["item", "supernode"]].drop_duplicates()
    factors = {item: {str(k): str(v) for k, v in row.items()} for item, row in prompts.to_dict("index").items()}
    pairs["role"] = [called(case, name, factors[item]) for item, name in pairs.itertuples(index=False)]
    texts: dict[str, dict[str, None]] = {}
    for item, name, role in pairs.itertuples(index=False):
        at = rules[name].at
        there = {"last": LAST, "index": ANYWHERE, "token": at.word, "factor": factors[item].get(at.word, ANYWHERE)}
        texts.setdefault(role, {})[there[at.form]] = None
    rows = members.merge(pairs, on=["item", "supernode"])
    each = rows.groupby(["layer", "feature", "role", "item"])["activation"].max()
    total = each.groupby(["layer", "feature", "role"]).sum().rename("total").reset_index()
    total["weight"] = total["total"] / total["role"].map(pairs.groupby("role")["item"].nunique())
    return total, {role: list(found) for role, found in texts.items()}


def roles_of(each: Sequence[tuple[pd.DataFrame, Mapping[str, Sequence[str]]]], atlas: pd.DataFrame) -> Roles:
    """The roles of all features over several cases (`role_weights`); those with most of a feature's activity come first. `atlas`:
    table `atlas`, for each feature's largest activation."""
    if not each:
        return Roles()
    table = pd.concat([weights for weights, _ in each], ignore_index=True)
    table = table.merge(atlas[["layer", "feature", "maximum"]], on=["layer", "feature"])
    table = table[table["weight"] >= LEAST * table["maximum"]]
    table = table.sort_values(["layer", "feature", "total", "role"], ascending=[True, True, False, True], kind="stable")
    found: dict[Place, dict[str, None]] = {}
    for layer, feature, role in table[["layer", "feature", "role"]].itertuples(index=False):
        found.setdefault((int(layer), int(feature)), {})[role] = None
    texts: dict[str, dict[str, None]] = {}
    for _, told in each:
        for role, words in told.items():
            texts.setdefault(role, {}).update(dict.fromkeys(words))
    of = {place: _kept(listed, texts) for place, listed in found.items()}
    used = dict.fromkeys(role for listed in of.values() for role in listed)
    return Roles(of, {role: list(texts[role]) for role in used})


def _kept(roles: Iterable[str], texts: Mapping[str, Iterable[str]]) -> list[str]:
    """Those of a feature's roles, strongest first, that are among the first `KEPT` at some text: a label is of one token."""
    found: dict[str, int] = {}
    kept = []
    for role in roles:
        if any(found.get(text, 0) < KEPT for text in texts[role]):
            kept.append(role)
            found |= {text: found.get(text, 0) + 1 for text in texts[role]}
    return kept


def labels_text(roles: Roles, key: str) -> str:
    """The contents of `labels.json`: roles with their texts; by layer and feature, the indices of the feature's roles in that list;
    and a key of what they depend on."""
    names = {role: place for place, role in enumerate(roles.texts)}
    layers: list[list[list[int]]] = []
    for (layer, number), listed in sorted(roles.of.items()):
        layers += [[] for _ in range(layer + 1 - len(layers))]
        layers[layer] += [[] for _ in range(number + 1 - len(layers[layer]))]
        layers[layer][number] = [names[role] for role in listed]
    made = {"key": key, "roles": [[role, *texts] for role, texts in roles.texts.items()], "features": layers}
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n"


def shipped_roles(path: Path, key: str | None = None) -> Roles:
    """The roles in `labels.json`; none if the file is missing or belongs to other weights (another `key`)."""
    if not path.is_file():
        return Roles()
    found = json.loads(path.read_text(encoding="utf-8"))
    if key not in (None, found["key"]):
        return Roles()
    names = [role for role, *_ in found["roles"]]
    of = {
        (layer, number): [names[place] for place in places]
        for layer, features in enumerate(found["features"])
        for number, places in enumerate(features)
        if places
    }
    return Roles(of, {role: texts for role, *texts in found["roles"]})
