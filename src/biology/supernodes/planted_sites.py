"""Takes apart sites that need no search: supernodes at a fixed position whose variable was planted there.

`site_parts` takes apart what the site search found. A rule with a fixed position has no such site. But where a mechanism was planted, it
states the layers and the token of each variable, and its causal model says which answer follows from another value. So the exchanges
of the certificate (`organisms.certificate`) are repeated on held-out prompts that the model answers, one part at a time. They take place in all layers up to the last one of the variable, and in its subspace if it has one.
"""

# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.case import Case
from biology.cases.found_sites import planted_supernodes
from biology.cases.mechanism import CausalModel, Mechanism
from biology.config import StatisticsConfig
from biology.models.model import Model, answer_token, encode
from biology.organisms.certificate import HELD_OUT, TAUGHT, Trial, paired_trials
from biology.organisms.variable_sites import sites
from biology.statistics import generator
from biology.supernodes.grouping import Finder
from biology.supernodes.site_parts import COLUMNS, MOST, NOT_MEASURED, measured
from biology.supernodes.site_search import Exchange
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet


def planted_parts(
    model: Model, transcoders: TranscoderSet, case: Case, mechanism: Mechanism, lesson: pd.DataFrame, prompts: pd.DataFrame,
    cache: FeatureCache, statistics: StatisticsConfig, operands: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The columns of `site_parts.COLUMNS` for each supernode with a fixed position whose variable was planted there: a row for each arm,
    or a single row without numbers if no held-out prompt can be asked.

    `mechanism` was planted with the prompts `lesson`; `prompts`, `cache` and `operands` are what the stages `cache` and `group` left.
    Donors are prompts that select, and were taught. Raises InputError if the causal model does not give the lesson's answers.
    """
    finder = Finder(model, case, prompts, transcoders, cache, operands)
    asked = planted_supernodes(case.supernodes, mechanism)
    if not asked:
        return pd.DataFrame(columns=list(COLUMNS))
    rows, place = _scored_and_taught(lesson, prompts)
    causal = CausalModel(mechanism, rows, f"the mechanism of {case.name}")
    trials: dict[str, list[Trial]] = {}
    for variable in dict.fromkeys(asked.values()):  # several supernodes may be looked for by one variable
        rng = generator(statistics.seed, case.name, variable, "planted_parts")
        base = rng.permutation(np.flatnonzero(rows["split"] == HELD_OUT))
        trials[variable] = paired_trials(causal, variable, base, rng, MOST)
    used = {row for several in trials.values() for one in several for row in one.prompts}
    held = sites(case.name, causal, lambda text: encode(model, text), model.d_model, used) if used else {}
    text = rows["text"].tolist()
    told: list[dict[str, object]] = []
    for name, variable in asked.items():
        about: dict[str, object] = {
            "case": case.name, "supernode": name, "position": str(case.supernodes[name].at),
            "layers": "-".join(map(str, dict.fromkeys(mechanism.variables[variable].layers))),
        }  # fmt: skip
        position = torch.from_numpy(finder.positions(case.supernodes[name].at))
        made = [
            Exchange(
                int(place[one.base]), tuple(place[one.donors["effect"]].tolist()),
                answer_token(model, text[one.base], str(one.answer)),
            )
            for one in trials[variable]
            if bool((position[place[one.prompts]] == held[variable].position[one.prompts]).all())
        ]  # fmt: skip
        if made:
            site = held[variable]
            parts = measured(finder, name, made, site.layers, site.layers[-1], statistics, site.basis)
            told += [about | row for row in parts]
        else:
            told.append(about | {"arm": "mlp", "n": 0, "clusters": 0, "fault": NOT_MEASURED})
    return pd.DataFrame(told, columns=list(COLUMNS))


def _scored_and_taught(lesson: pd.DataFrame, prompts: pd.DataFrame) -> tuple[pd.DataFrame, Int[Tensor, " row"]]:
    """The rows of the lesson that are prompts of the case, and their places in `prompts`: those that are scored on the held-out split and
    answered (`split` test), and those that select (train)."""
    scored = (prompts["role"] == "score") & (prompts["split"] == "heldout") & prompts["correct"]
    chosen = (scored | (prompts["role"] == "select")).to_numpy() & ~prompts["text"].duplicated().to_numpy()
    rows = lesson.drop_duplicates("text").set_index("text", drop=False)
    place = [at for at in np.flatnonzero(chosen).tolist() if prompts["text"].iat[at] in rows.index]
    split = [HELD_OUT if scored.iat[at] else TAUGHT for at in place]
    return rows.loc[prompts["text"].iloc[place]].assign(split=split), torch.tensor(place, dtype=torch.long)
