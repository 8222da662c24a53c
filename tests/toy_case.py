"""A toy case on a tiny random model: prompts, members named by hand, and the context that perturbs them.

Item i is the prompt `w<i> w<10+i>` (odd ones one word longer), its city those two words, its answer `w<60+i>`; its donor
is the next item and its wrong donor the one after. Feature 0 of every layer is always active. `own` holds two active
features of layers 0 and 1 at the last position, `watched` two of layer 2. The first prompt is a named one, `shown`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import random_transcoders
from pydantic import TypeAdapter

from biology.cases.case import Case
from biology.cases.case_file import Paper, Prompt
from biology.cases.experiments import Experiment
from biology.cases.measurement import Measurement
from biology.cases.perturbations import Perturbation
from biology.cases.rules import SupernodeRule
from biology.config import StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.models.model import encode
from biology.tables import table
from biology.transcoders.activations import FeatureCache, cache_features
from biology.transcoders.transcoder_set import TranscoderSet

ITEMS = 6
LAYERS_OF = {"own": (0, 1), "watched": (2,)}


def transcoders_of(model, n_features: int = 48) -> TranscoderSet:
    made = random_transcoders(model, n_features=n_features)
    layers = []
    for layer in made.layers:
        b_enc = layer.b_enc.clone()
        b_enc[0] = 12.0
        layers.append(replace(layer, b_enc=b_enc))
    return replace(made, layers=tuple(layers))


def prompts_frame() -> pd.DataFrame:
    """The first half of the items develops, the second is held out; relations alternate in pairs."""

    def row(i: int, item: str, split: str, role: str) -> dict:
        text = f"w{i} w{10 + i}" + " w30" * (i % 2)
        return {
            "item": item, "text": text, "answer": f"w{60 + i}", "answer_token": 64 + i, "top1": "", "probability": 0.0,
            "correct": True, "cluster": f"c{i}", "split": split, "role": role, "city": f"w{i} w{10 + i}",
            "place": f"w{50 + i}", "relation": f"r{i // 3}", "donor": f"i{(i + 1) % ITEMS}",
            "wrong_donor": f"i{(i + 2) % ITEMS}",
        }  # fmt: skip

    scored = [row(i, f"i{i}", "dev" if i < ITEMS // 2 else "heldout", "score") for i in range(ITEMS)]
    return pd.DataFrame([row(7, "shown", "registered", "show") | {"donor": "i0"}, *scored])


def members_of(prompts: pd.DataFrame, cache: FeatureCache) -> pd.DataFrame:
    rows = []
    for place, item in enumerate(prompts["item"]):
        pos = int(cache.lengths[place]) - 1
        for supernode, layers in LAYERS_OF.items():
            for layer in layers:
                features, values = cache.cell(place, layer, pos)
                rows += [
                    {
                        "item": item, "supernode": supernode, "layer": layer, "pos": pos, "feature": feature,
                        "activation": value, "share": 1.0,
                    }
                    for feature, value in list(zip(features.tolist(), values.tolist(), strict=True))[:2]
                ]  # fmt: skip
    return table("supernodes", rows)


def experiment_of(**fields) -> Any:
    """An experiment as case.yaml would give it."""
    return TypeAdapter(Experiment).validate_python(fields)


def toy_context(
    model, experiments: dict[str, Measurement], *, transcoders: TranscoderSet | None = None, seed: int = 0,
    prompts: pd.DataFrame | None = None, draws: int = 3,
) -> CaseContext:  # fmt: skip
    transcoders = transcoders_of(model) if transcoders is None else transcoders
    prompts = prompts_frame() if prompts is None else prompts
    cache = cache_features(model, transcoders, [encode(model, text) for text in prompts["text"]])
    case = Case(
        name="toy", folder=Path("toy"), paper=Paper(section="", url=""),
        prompts={"shown": Prompt(text=prompts["text"][0], answer=prompts["answer"][0])},
        supernodes={"own": SupernodeRule(), "watched": SupernodeRule()}, experiments=experiments,
    )  # fmt: skip
    statistics = StatisticsConfig(control_draws=draws, seed=seed)
    return CaseContext(model, case, prompts, statistics, transcoders, members_of(prompts, cache), cache)


OUTCOMES = (
    "answer_probability", "donor_probability", "donor_top1", "level_top1:place", "others_probability", "advantage",
    "answer_logit", "activation:watched",
)  # fmt: skip
SWAP = experiment_of(
    kind="swap",
    inhibit="own",
    inject="own",
    strengths=(2.0,),
    outcomes=OUTCOMES,
    controls=("match", "donor", "position", "direction"),
)
INHIBIT = experiment_of(
    kind="inhibit", inhibit="own", outcomes=("answer_probability", "activation:own", "activation:watched")
)
EVERYONE = range(1, 1 + ITEMS)  # the first prompt is the named one


def effects(rows, outcome, arm="effect"):
    frame = pd.DataFrame(rows)
    chosen = frame[(frame["outcome"] == outcome) & (frame["arm"] == arm)]
    return chosen.groupby("item")["value"].apply(list).to_dict()


def replace_experiment(experiment: Perturbation, **fields) -> Perturbation:
    return type(experiment)(**(experiment.model_dump() | fields))
