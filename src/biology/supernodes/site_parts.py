"""Takes the site of each supernode with `at: found` apart on held-out prompts: which part is at fault where a true claim is missed?

The site search exchanges what the MLPs write there between prompts that differ in the level of the rule's factor. Here the
exchange is repeated on held-out prompts, one part at a time:

    mlp_found    what the MLPs write in the layers that the search exchanged
    mlp          what the MLPs write in the layers that the rule may take, from the first to the last that the search found
    mlp_frozen   the same, with attention patterns kept, as experiments keep them
    features     what all features that are active there, on the prompt or on the donor, write
    error        the rest: what no feature writes (a skip connection counts here)
    members      what the supernode's members on the prompt and on the donor write
    others       what all other features write
    nothing      what the MLPs write on the prompt itself: no exchange

`features` and `error` add up to `mlp`; `members` and `others` to `features`. Nothing is chosen on these prompts, and no verdict rests
on what is measured here. The links of this chain, from what the model does to what an experiment holds, are compared one after the
other (`fault`); the thresholds were fixed before any number was seen. `planted_sites` does the same where a variable was planted at
a fixed position.
"""

# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.cases.case import Case
from biology.cases.experiments import Attention
from biology.cases.found_sites import with_found_sites
from biology.cases.perturbations import Perturbation
from biology.cases.positions import FOUND
from biology.cases.rules import SupernodeRule
from biology.config import StatisticsConfig
from biology.interventions.site_exchange import said_with, seen_at
from biology.models.continuation import SharedPrefix
from biology.models.model import Model
from biology.statistics import bootstrap_interval, generator, resamples
from biology.supernodes.grouping import Finder, needed_rules
from biology.supernodes.site_search import Exchange, exchanges
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet, decoder

ARMS = ("mlp", "mlp_found", "mlp_frozen", "features", "error", "members", "others", "nothing")
COLUMNS = (
    "case", "supernode", "position", "layers", "arm", "accuracy", "low", "high", "n", "clusters", "number_share", "activity_share",
    "fault", "certain",
)  # fmt: skip
"""One row is a part of a supernode's site. accuracy: the share of the held-out prompts on which the model gives the answer of the
donor's level; number_share, activity_share: the part's share of the features active there, and of their activations times the length of
what they write; certain: whether the interval, too, says what `fault` says (1 or 0)."""
MOST = 200
"""Largest number of held-out prompts; which ones depends on the seed and the rule alone."""
HELD = 0.9
"""Smallest accuracy of an exchange of MLP outputs at which they hold the variable."""
KEPT = 0.9
"""A link of the chain keeps the variable if its accuracy is at least this share of that of the link before."""
SPREAD = 0.5
"""The variable is spread over more features than the rule takes if the others reach at least this share of what all features reach."""
NOT_FOUND, NOT_MEASURED = "not found", "not measured"
FAULTS = ("model", "search", "attention", "dictionary", "spread", "rule", "none", NOT_FOUND, NOT_MEASURED)
"""`findings.faults` says what each means."""


def links(accuracy: Mapping[str, float], *, live: bool = False) -> list[tuple[str, str, float]]:
    """The links of the chain in order: the fault if it loses the variable, its arm, and the smallest accuracy at which it keeps it. `live`:
    an experiment that holds the supernode lets attention follow, so that link is left out."""
    lost = "spread" if accuracy["others"] >= SPREAD * accuracy["features"] else "rule"
    kept = [] if live else [("attention", "mlp_frozen", KEPT * accuracy["mlp"])]
    return [
        ("search" if accuracy["mlp_found"] >= HELD else "model", "mlp", HELD),
        *kept,
        ("dictionary", "features", KEPT * accuracy["mlp"]),
        (lost, "members", KEPT * accuracy["features"]),
    ]


def fault(accuracy: Mapping[str, float], *, live: bool = False) -> str:
    """The first link of the chain that loses the variable, one of `FAULTS`, given the accuracy of each arm; `none` if none does."""
    return next((word for word, arm, least in links(accuracy, live=live) if accuracy[arm] < least), "none")


def certain(
    accuracy: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float], *, live: bool = False
) -> bool:
    """Whether the whole interval of the link that `fault` names lies below what keeps the variable; for `none`, those of all links above."""
    word, chain = fault(accuracy, live=live), links(accuracy, live=live)
    if word == "none":
        return all(low[arm] >= least for _, arm, least in chain)
    return next(high[arm] < least for one, arm, least in chain if one == word)


def held_live(case: Case, supernode: str) -> bool:
    """Whether some experiment that holds a supernode lets attention patterns follow, as those do that write a line or change attention."""
    return any(
        isinstance(one, Attention) or one.line is not None or one.attention == "live"
        for one in case.of_kind(Perturbation, Attention).values()
        if supernode in one.held
    )


@dataclass(frozen=True, eq=False)
class Writes:
    """What the parts of a site write on a prompt, minus what they write on its donors, in the mean over these."""

    mlp: Float[Tensor, "layer row d_model"]
    features: Float[Tensor, "layer row d_model"]
    members: Float[Tensor, "layer row d_model"]
    number_share: float
    """The members' share of the features active at the site, on the prompts and on their donors."""
    activity_share: float
    """The same of their activations times the length of what they write."""

    def of(self, arm: str) -> Float[Tensor, "layer row d_model"]:
        """The change that an arm of `ARMS` makes to the MLP outputs at the site."""
        match arm:
            case "mlp_frozen":
                return self.mlp
            case "error":
                return self.mlp - self.features
            case "others":
                return self.features - self.members
            case "nothing":
                return torch.zeros_like(self.mlp)
        return getattr(self, arm)


def site_parts(
    model: Model, transcoders: TranscoderSet, case: Case, prompts: pd.DataFrame, cache: FeatureCache, sites: pd.DataFrame,
    statistics: StatisticsConfig, operands: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The columns `COLUMNS` for each rule of the case with `at: found`: a row for each arm, or a single row without numbers if nothing
    was found there or no held-out prompt can be asked.

    `prompts`, `cache`, `sites` and `operands` are what the stages `cache` and `group` left. Raises InputError if `sites` was made by
    other rules.
    """
    finder = Finder(model, with_found_sites(case, sites), prompts, transcoders, cache, operands)
    needed = needed_rules(case, prompts)
    rows: list[dict[str, object]] = []
    for name, asked in case.supernodes.items():
        if asked.at != FOUND:
            continue
        rule = finder.case.supernodes[name]
        best = sites[(sites["supernode"] == name) & sites["chosen"]]
        made = _asked(finder, asked, rule, statistics.seed) if len(best) and name in needed else []
        about = {"case": case.name, "supernode": name, "position": str(rule.at)}
        if not made:
            word = NOT_MEASURED if len(best) else NOT_FOUND
            rows.append(about | {"layers": "", "arm": "mlp", "n": 0, "clusters": 0, "fault": word})
            continue
        assert rule.layers is not None
        layers = "-".join(map(str, dict.fromkeys(rule.layers)))
        found = range(int(best["first"].iat[0]), int(best["last"].iat[0]) + 1)
        rows += [
            about | {"layers": layers} | row for row in measured(finder, name, made, found, rule.layers[1], statistics)
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _asked(finder: Finder, asked: SupernodeRule, rule: SupernodeRule, seed: int) -> list[Exchange]:
    """The exchanges of the site search, asked of held-out prompts. Donors are selecting prompts of either split, as members are."""
    there = finder.positions(rule.at) >= 0
    prompts = finder.prompts.assign(correct=finder.prompts["correct"].to_numpy() & there)
    scored, dev = prompts["role"] == "score", prompts["split"] == "dev"
    # the search looks at prompts of the split `dev`: here at all of the prompt set but its scored development prompts
    of_set = prompts["split"].isin(["dev", "heldout"]) & ~(scored & dev)
    prompts["split"] = np.where(of_set, "dev", "left out")
    question = (seed, "site_parts", asked.factor, *sorted(set(asked.across)), "|", *sorted(asked.given))
    return exchanges(prompts, str(asked.factor), asked.across, asked.given, generator(*question), MOST)


def measured(
    finder: Finder, name: str, made: list[Exchange], found: range, last: int, statistics: StatisticsConfig,
    basis: Float[Tensor, "d_model dimensions"] | None = None,
) -> list[dict[str, object]]:  # fmt: skip
    """A row for each arm: its accuracy with its interval over clusters, and its share of the site's features.

    The site is the position of the supernode's rule, in all layers up to `last`; `found` are the layers of the arm `mlp_found`. Only what
    lies in the subspace of `basis` is exchanged, if it is given.
    """
    model, rule = finder.model, finder.case.supernodes[name]
    position = torch.from_numpy(finder.positions(rule.at))
    base, answer = [one.base for one in made], torch.tensor([one.answer for one in made])
    writes = site_writes(finder, name, made, last)
    own = seen_at(model, finder.ids, base, _hooks(finder, range(max(found.stop, last + 1))), position)
    starts: dict[tuple[int, ...], SharedPrefix] = {}
    said = partial(said_with, model, finder.ids, base, position=position, basis=basis, starts=starts)

    def share(arm: str) -> Bool[Tensor, " row"]:
        layers = found if arm == "mlp_found" else range(last + 1)
        hooks = _hooks(finder, layers)
        change = _mlp(finder, made, hooks, position) if arm == "mlp_found" else writes.of(arm)
        vectors = own[layers.start : layers.stop] + change
        return said(edits=list(zip(hooks, vectors, strict=True)), frozen=arm == "mlp_frozen") == answer

    right = {arm: share(arm) for arm in ARMS}
    clusters = finder.prompts["cluster"].to_numpy()[base]
    scores = pd.DataFrame({arm: one.double().numpy() for arm, one in right.items()}).groupby(clusters).mean()
    draws = generator(statistics.seed, finder.case.name, name, "site_parts")
    counts = resamples(len(scores), statistics.bootstrap, draws)
    low, high = np.clip(bootstrap_interval(scores.to_numpy(), counts), 0.0, 1.0)
    accuracy: dict[str, float] = scores.mean().to_dict()
    shares = {"number_share": writes.number_share, "activity_share": writes.activity_share}
    of_all: dict[str, Any] = {
        "features": dict.fromkeys(shares, 1.0),
        "members": shares,
        "others": {column: 1.0 - share for column, share in shares.items()},
    }
    ends = ({arm: float(end[place]) for place, arm in enumerate(ARMS)} for end in (low, high))
    live = held_live(finder.case, name)
    told = {"fault": fault(accuracy, live=live), "certain": float(certain(accuracy, *ends, live=live))}
    return [
        {"arm": arm, "accuracy": accuracy[arm], "low": float(low[place]), "high": float(high[place]), "n": len(made),
         "clusters": len(scores)} | told | of_all.get(arm, {})
        for place, arm in enumerate(ARMS)
    ]  # fmt: skip


def _hooks(finder: Finder, layers: range) -> list[str]:
    return [f"blocks.{layer}.{finder.transcoders.write_hook}" for layer in layers]


def _mlp(
    finder: Finder, made: list[Exchange], hooks: list[str], position: Int[Tensor, " prompt"]
) -> Float[Tensor, "layer row d_model"]:
    """What the MLPs write on the donors of each exchange, in the mean, beyond what they write on its prompt."""
    asked = sorted({place for one in made for place in (one.base, *one.donors)})
    number = {place: row for row, place in enumerate(asked)}
    outputs = seen_at(finder.model, finder.ids, asked, hooks, position)
    means = [outputs[:, [number[donor] for donor in one.donors]].mean(1) - outputs[:, number[one.base]] for one in made]
    return torch.stack(means, 1)


def site_writes(finder: Finder, name: str, made: list[Exchange], last: int) -> Writes:
    """What the parts of a supernode's site, in all layers up to `last`, write on the donors of each exchange beyond what they write on
    its prompt."""
    position = torch.from_numpy(finder.positions(finder.case.supernodes[name].at))
    places = {place for one in made for place in (one.base, *one.donors)}
    sites = {place: _Site(finder, name, place, int(position[place]), last) for place in places}
    features: list[Tensor] = []
    members: list[Tensor] = []
    sums = np.zeros(4)
    for one in made:
        donors = [sites[donor] for donor in one.donors]
        features.append(torch.stack([donor.written for donor in donors]).mean(0) - sites[one.base].written)
        members.append(torch.stack([_exchanged(sites[one.base], donor) for donor in donors]).mean(0))
        sums += np.mean([sites[one.base].sums + donor.sums for donor in donors], 0)
    mine, every, active, whole = sums
    mlp = _mlp(finder, made, _hooks(finder, range(last + 1)), position)
    shares = (float(mine / max(every, 1.0)), float(active / max(whole, 1e-300)))
    return Writes(mlp, torch.stack(features, 1), torch.stack(members, 1), *shares)


class _Site:
    """The active features of one prompt at a site, what they write there, and which of them are members."""

    def __init__(self, finder: Finder, name: str, place: int, position: int, last: int):
        self.finder, self.last = finder, last
        self.written = torch.zeros(last + 1, finder.model.d_model)
        chosen = finder.select(finder.case.supernodes[name], name, finder.records[place])
        selected = set(zip(chosen.layer.tolist(), chosen.feature.tolist(), strict=True))
        self.active: dict[tuple[int, int], float] = {}
        self.members: set[tuple[int, int]] = set()
        self.sums = np.zeros(4)
        """Number of members and of active features; activation times length of what is written, of members and of all."""
        for layer in range(last + 1):
            features, values = finder.cache.cell(place, layer, position)
            if not len(features):
                continue
            rows = decoder_rows(finder.transcoders, layer, last, features)
            self.written[layer:] += torch.einsum("f,ftd->td", values.to(rows), rows)
            keys = [(layer, feature) for feature in features.tolist()]
            self.active |= dict(zip(keys, values.tolist(), strict=True))
            mine = torch.tensor([key in selected and self.active[key] > 0 for key in keys])
            self.members |= {key for key, member in zip(keys, mine.tolist(), strict=True) if member}
            size = values.abs().to(rows) * rows.flatten(1).norm(dim=1)
            self.sums += [float(mine.sum()), len(keys), float(size[mine].sum()), float(size.sum())]


def _exchanged(base: _Site, donor: _Site) -> Float[Tensor, "layer d_model"]:
    """The change of what is written if the members of both have their activations on the donor."""
    change = torch.zeros_like(base.written)
    for layer in range(base.last + 1):
        keys = sorted(key for key in base.members | donor.members if key[0] == layer)
        if keys:
            by = torch.tensor([donor.active.get(key, 0.0) - base.active.get(key, 0.0) for key in keys])
            rows = decoder_rows(base.finder.transcoders, layer, base.last, torch.tensor([key[1] for key in keys]))
            change[layer:] += torch.einsum("f,ftd->td", by.to(rows), rows)
    return change


def decoder_rows(
    transcoders: TranscoderSet, layer: int, last: int, features: Int[Tensor, " feature"]
) -> Float[Tensor, "feature target d_model"]:
    """What features of a layer write at unit activation into each layer from their own to `last`, in float32 on the CPU; zeros
    where they do not write."""
    weights = transcoders.layers[layer]
    wanted = features.long().to(weights.b_dec.device)
    rows = [decoder(transcoders, layer, target, wanted) for target in range(layer, last + 1)]
    nothing = torch.zeros(len(features), transcoders.d_model)
    return torch.stack([nothing if one is None else one.float().cpu() for one in rows], 1)
