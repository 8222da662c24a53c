"""What is represented at a position is counted there, and only there; a probe reads what is there and no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from toy_case import experiment_of, toy_context, transcoders_of

from biology.cases.case import Case
from biology.cases.case_file import Paper
from biology.cases.rules import SupernodeRule
from biology.config import StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.census import agreeing, linear_probe, run_census
from biology.models.model import encode
from biology.tables import table
from biology.transcoders.activations import cache_features
from biology.transcoders.transcoder_set import shuffled

LEVELS = 6
CENSUS = experiment_of(
    kind="census", through="word", sites=("1", "2"), outcomes=("planned", "candidates", "ordinary", "probe"),
    controls=("position", "shuffle", "random"),
)  # fmt: skip


def planted(tiny_model) -> CaseContext:
    """The level is the last word of a prompt, so that only the last token can tell it; two levels make a cluster."""
    model = tiny_model("llama")
    rows = []
    for level in range(LEVELS):
        for copy in range(6):
            score = copy >= 4
            rows.append(
                {
                    "item": f"{level}-{copy}", "text": f"w{20 + copy} w{30 + (copy + level) % 5} w{level}", "answer": "w9",
                    "answer_token": 13, "top1": "", "probability": 0.0, "correct": True, "cluster": f"c{level // 2}",
                    "split": "dev" if level < 2 else "heldout", "role": "score" if score else "select",
                    "word": f"word {level}", "spoken": f"{level}-4",
                }
            )  # fmt: skip
    prompts = pd.DataFrame(rows)
    transcoders = transcoders_of(model)
    cache = cache_features(model, transcoders, [encode(model, text) for text in prompts["text"]])
    rule = SupernodeRule(factor="word", split="any", precision=0.5, recall=0.5)
    case = Case(
        name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts={}, supernodes={"word": rule},
        experiments={"census": CENSUS},
    )  # fmt: skip
    return CaseContext(
        model, case, prompts, StatisticsConfig(control_draws=2), transcoders, table("supernodes", []), cache
    )


def test_a_planted_level_is_found_where_it_is_and_a_null_is_not(tiny_model):
    evidence = run_census(planted(tiny_model))
    mean = evidence.groupby(["outcome", "arm"])["value"].mean()
    for outcome in ("planned", "ordinary"):
        assert mean[outcome, "effect"] > max(0.5, 3 * mean[outcome, "shuffle"])
    assert mean["planned", "position"] < 0.3
    assert mean["probe", "effect"] > 0.8
    assert mean["probe", "position"] < 0.5  # at the first word, where nothing tells the level
    assert mean["probe", "shuffle"] == 0.5  # two levels a cluster
    positions = evidence[(evidence["outcome"] == "planned") & (evidence["arm"] == "position")]
    assert set(positions["draw"]) == {0, 1}


def test_transcoders_without_meaning_are_no_better_than_what_the_rule_finds_with_others(tiny_model):
    context = planted(tiny_model)
    null = shuffled(context.transcoders, 7)
    cache = cache_features(context.model, null, context.ids)
    mean = run_census(replace(context, transcoders=null, cache=cache)).groupby(["outcome", "arm"])["value"].mean()
    for outcome in ("planned", "candidates", "ordinary"):
        assert abs(mean[outcome, "effect"] - mean[outcome, "random"]) < 0.2
    assert mean["planned", "effect"] > max(0.5, 2 * mean["planned", "shuffle"])  # which other controls do not tell


def test_activity_follows_the_numbers_of_its_own_level(tiny_model):
    context = planted(tiny_model)
    rng = np.random.default_rng(0)
    numbers = {
        f"chance_{place}": 0.8 * (context.prompts["word"] == f"word {place}") + 0.1 * rng.random(len(context.prompts))
        for place in range(LEVELS)
    }
    prompts = context.prompts.assign(**numbers, word=context.prompts["word"].str.removeprefix("word "))
    census = experiment_of(kind="census", through="word", outcomes=("follows:chance",), controls=("shuffle", "random"))
    case = context.case.model_copy(update={"experiments": {"census": census}})
    evidence = run_census(replace(context, case=case, prompts=prompts))
    held = evidence[evidence["split"] == "heldout"].groupby("arm")["value"].mean()
    assert held["effect"] > 0.4 and held["shuffle"] < 0 and abs(held["random"] - held["effect"]) < 0.3
    assert set(evidence["outcome"]) == {"follows:chance"} and len(evidence) == 3 * LEVELS * 2


def test_the_mean_of_agreeing_values_is_the_correlation():
    rng = np.random.default_rng(1)
    activity, number = rng.random((50, 3)), rng.random((50, 3))
    activity[:, 2] = 4.0
    mean = agreeing(activity, number).mean(0)
    for one in range(2):
        for other in range(3):
            assert np.isclose(mean[one, other], np.corrcoef(activity[:, one], number[:, other])[0, 1])
    assert not mean[2].any()


def test_the_probe_names_planted_levels_and_guesses_where_there_are_none():
    rng = np.random.default_rng(0)
    level = np.repeat(np.arange(5), 40)
    centres = rng.standard_normal((5, 20))
    x = centres[level] + 0.3 * rng.standard_normal((200, 20))
    new = centres[level] + 0.3 * rng.standard_normal((200, 20))
    assert (linear_probe(x, level, new) == level).mean() > 0.95
    assert (linear_probe(x, rng.permutation(level), new) == level).mean() < 0.5
    noise = rng.standard_normal((200, 20))
    assert (linear_probe(noise, level, rng.standard_normal((200, 20))) == level).mean() < 0.4


def test_a_case_without_a_census_has_no_rows(tiny_model):
    assert not len(run_census(toy_context(tiny_model("llama"), {})))
