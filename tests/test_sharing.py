"""What languages share is measured as defined: planted common features are found, and nothing where there is none."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_transcoders
from toy_case import experiment_of

from biology.cases.case import Case
from biology.cases.case_file import Paper
from biology.cases.measurement import Measurement
from biology.cases.rules import SupernodeRule
from biology.config import StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.sharing import middle_minus_outer, overlap, reduce_sharing
from biology.models.model import encode
from biology.records import InputError
from biology.tables import table
from biology.transcoders.activations import FeatureCache

SCALES, RELATIONS, LANGUAGES = ("s0", "s1", "s2"), ("r0", "r1"), ("en", "fr", "zh", "de")
WIDTH = 200


def prompts_frame() -> pd.DataFrame:
    """Three words and a sign that all prompts share; no two languages have a word in common, nor two concepts."""
    rows = []
    for number, (scale, relation, language) in enumerate(itertools.product(SCALES, RELATIONS, LANGUAGES)):
        spoken, asked, about = LANGUAGES.index(language), RELATIONS.index(relation), SCALES.index(scale)
        rows.append(
            {
                "item": f"i{number}", "text": f"w{1 + 2 * spoken + asked} w{10 + 4 * about + spoken} w30", "answer": "",
                "answer_token": 40 + 4 * about + spoken, "top1": "", "probability": 0.0, "correct": True, "cluster": scale,
                "split": "heldout", "role": "score", "concept": scale, "relation": relation, "language": language,
                "scale": scale, "language_fold": "0" if language in ("en", "fr") else "1",
                "donor": f"i{(number + 4) % 24}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def context_of(model, active, experiment: Measurement, members=()) -> CaseContext:
    """A context whose active features are those that `active(row)` lists as (layer, pos, feature)."""
    frame = prompts_frame()
    lists = [sorted(set(active(row))) for row in frame.to_dict("records")]
    ids = [encode(model, text) for text in frame["text"]]
    entries = torch.tensor([entry for one in lists for entry in one]).reshape(-1, 3)
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in lists])])
    lengths = torch.tensor([len(one) for one in ids])
    shape = torch.tensor([len(frame), model.n_layers, int(lengths.max()), WIDTH])
    logits = torch.zeros(len(frame), model.n_vocab)
    columns = [entries[:, i].int() for i in range(3)]
    cache = FeatureCache(
        offsets, lengths, torch.tensor(sum(ids, [])), *columns, torch.ones(len(entries)), logits, shape
    )
    case = Case(
        name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts={}, supernodes={"own": SupernodeRule()},
        experiments={"share": experiment},
    )  # fmt: skip
    rows = [
        {
            "item": item,
            "supernode": "own",
            "layer": layer,
            "pos": 3,
            "feature": feature,
            "activation": 1.0,
            "share": 1.0,
        }
        for item, there in zip(frame["item"], lists, strict=True)
        for layer, feature in members
        if (layer, 3, feature) in there
    ]
    transcoders = random_transcoders(model, n_features=WIDTH)
    return CaseContext(
        model, case, frame, StatisticsConfig(control_draws=3), transcoders, table("supernodes", rows), cache
    )


def means(context: CaseContext) -> dict[tuple[str, str], float]:
    return reduce_sharing(context).groupby(["outcome", "arm"])["value"].mean().to_dict()


def test_overlap_by_hand():
    assert overlap(np.arange(10), np.arange(10), 10**9) == pytest.approx(1.0)
    assert overlap(np.arange(10), np.arange(5, 15), 10**9) == pytest.approx(1 / 3)
    assert overlap(np.arange(0), np.arange(0), 100) == 0.0


def test_independent_sets_share_nothing_beyond_chance_whatever_their_sizes():
    generator = np.random.default_rng(0)
    for sizes in ((50, 50), (20, 150)):
        sets = [[generator.choice(200, size, replace=False) for size in sizes] for _ in range(400)]
        assert np.mean([overlap(one, other, 200) for one, other in sets]) == pytest.approx(0.0, abs=0.01)


def test_the_middle_third_is_where_the_centres_of_layers_lie():
    assert middle_minus_outer(np.array([0.0, 1.0, 0.0])) == 1.0
    assert middle_minus_outer(np.array([0.0, 0.0, 1.0, 0.0, 0.0])) == 1.0
    assert middle_minus_outer(np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])) == -1.0


OVERLAP = experiment_of(kind="sharing", controls=("shuffle",), outcomes=("overlap_profile", "overlap:0", "overlap:1"))


def planted(row: dict) -> list[tuple[int, int, int]]:
    """Layers 0 and 2 speak a language; layer 1 knows what is asked, whatever the language."""
    spoken, asked = LANGUAGES.index(row["language"]), int(row["item"][1:]) // 4
    at_start = [(layer, 0, 190 + feature) for layer in range(3) for feature in range(5)]  # the same in all prompts
    return [
        *at_start, *((layer, 2, 20 * spoken + i) for layer in (0, 2) for i in range(5)),
        *((1, 1, 20 * asked + i) for i in range(5)),
    ]  # fmt: skip


def test_features_that_translations_share_are_found_where_they_are_planted(tiny_model):
    found = means(context_of(tiny_model("llama"), planted, OVERLAP))
    assert found["overlap:1", "effect"] == pytest.approx(1.0, abs=0.05)
    assert found["overlap:0", "effect"] == pytest.approx(0.0, abs=0.05)  # what all prompts have at the start counts not
    assert found["overlap_profile", "effect"] == pytest.approx(1.0, abs=0.05)
    assert all(abs(value) < 0.05 for (_, arm), value in found.items() if arm == "shuffle")


def test_prompts_that_share_a_frame_are_not_translations(tiny_model):
    """A feature of all prompts raises effect and control alike."""
    found = means(context_of(tiny_model("llama"), lambda row: [(1, 1, i) for i in range(5)], OVERLAP))
    assert found["overlap:1", "effect"] == pytest.approx(found["overlap:1", "shuffle"])


def test_members_that_are_active_in_the_other_languages_of_the_fold_are_shared(tiny_model):
    experiment = experiment_of(kind="sharing", of=("own",), controls=("match",), outcomes=("shared",))

    def active(row: dict) -> list[tuple[int, int, int]]:
        everywhere = [(0, 3, 1)]  # a member in all languages
        spoken = LANGUAGES.index(row["language"])
        return [*everywhere, (0, 3, 2 + spoken), *((0, 3, 20 + 10 * spoken + i) for i in range(8))]

    members = [(0, 1), (0, 2)]  # the second is active in English prompts alone
    found = means(context_of(tiny_model("llama"), active, experiment, members))
    # English prompts have two members, one of which is active in French; the others have the first alone
    assert found["shared", "effect"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert found["shared", "match"] == 0.0
    context = context_of(tiny_model("llama"), active, experiment, members[1:])
    rows = reduce_sharing(context)
    nobody = rows[rows["arm"] == "effect"].set_index("item")["value"]
    # French and Chinese prompts have no member, which counts; English ones share theirs with nobody
    assert len(nobody) == len(context.items(experiment)) and (nobody == 0).all()


def test_the_default_language_is_the_one_whose_answers_the_decoders_promote(tiny_model):
    model = tiny_model("llama")
    experiment = experiment_of(
        kind="sharing", of=("own",), controls=("match",), outcomes=("default_written:zh", "default_written:en")
    )
    context = context_of(model, lambda row: [(0, 3, i) for i in range(9)], experiment, [(0, 0)])
    unembed = (model.weights.W_U - model.weights.W_U.mean(0)) * model.weights.ln_final.gain
    answers = {language: [40 + 4 * about + i for about in range(3)] for i, language in enumerate(LANGUAGES)}
    chosen = unembed[answers["zh"][0]] - unembed[answers["zh"][1:]].mean(0)
    context.transcoders.layers[0].W_dec[0, 0] = chosen  # promotes the Chinese word of the first scale
    rows = reduce_sharing(context)
    first = rows[(rows["cluster"] == "s0") & (rows["arm"] == "effect")].groupby("outcome")["value"].mean()
    scores = chosen @ unembed.T
    z = {
        language: float((scores[tokens[0]] - scores[tokens].mean()) / scores[tokens].std())
        for language, tokens in answers.items()
    }
    for language in ("zh", "en"):
        others = np.mean([value for one, value in z.items() if one != language])
        assert first[f"default_written:{language}"] == pytest.approx(z[language] - others, abs=1e-4)
    assert first["default_written:zh"] > 0.5 > first["default_written:en"]


def test_closeness_is_the_mean_cosine_with_the_donors_members(tiny_model):
    experiment = experiment_of(kind="sharing", of=("own",), controls=("match",), outcomes=("closeness",))
    context = context_of(tiny_model("llama"), lambda row: [(0, 3, i) for i in range(9)], experiment, [(0, 1), (0, 2)])
    W_enc = torch.nn.functional.normalize(context.transcoders.layers[0].W_enc[[1, 2]], dim=-1)
    found = means(context)
    assert found["closeness", "effect"] == pytest.approx(float((W_enc @ W_enc.T).mean()), abs=1e-5)
    assert found["closeness", "effect"] > found["closeness", "match"] + 0.2  # other features point elsewhere


@pytest.mark.parametrize(
    ("outcome", "message"),
    [("overlap:7", "the model has layers 0 to 2"), ("default_written:xx", "languages are")],
)
def test_a_mistake_is_named(tiny_model, outcome, message):
    experiment = experiment_of(kind="sharing", of=("own",), controls=(), outcomes=(outcome,))
    with pytest.raises(InputError, match=message):
        reduce_sharing(context_of(tiny_model("llama"), lambda row: [(0, 3, 0)], experiment, [(0, 0)]))
