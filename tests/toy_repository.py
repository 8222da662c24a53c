"""Toy cases on a tiny random model, as files: between them they use every kind of experiment and nearly every key.

`CASES` holds what case.yaml and claims.yaml say and the rows of prompts.csv, as plain data that a test may edit; `write` makes files of
them, and `judged` runs the pipeline on these and gives the numbers of every claim. Answers are what the model says, so that
every prompt passes the gate.
"""

import csv
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pandas as pd
from conftest import random_transcoders

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.cases.experiments import Census, Graph, Sharing, Signs
from biology.cases.found_sites import with_found_sites
from biology.config import AttributionConfig, StatisticsConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.census import run_census
from biology.evidence.contrasts import computed
from biology.evidence.graph_tables import reduce_graphs
from biology.evidence.line_evidence import run_lines
from biology.evidence.operand_tables import read_grid
from biology.evidence.perturbation import run_experiments
from biology.evidence.score_evidence import run_attention
from biology.evidence.sharing import reduce_sharing
from biology.models.model import encode, run, token_batch, token_text
from biology.schemas import VERDICTS
from biology.supernodes.behaviour import prompts_table
from biology.supernodes.case_prompts import CasePrompts, in_chats
from biology.supernodes.grouping import group
from biology.supernodes.site_search import find_sites
from biology.tables import stacked
from biology.verdicts.claims import part_verdict
from biology.verdicts.measuring import Meta, measure

PAPER = {"section": "none", "url": "https://example.org"}
STATISTICS = StatisticsConfig(control_draws=2, permutations=4, bootstrap=10)
NUMBERS = ("passed", "attempted", "n", "clusters", "strength", "statistic", "low", "high", "effect", "control", "p")
"""What is measured of a part (`claims.Measured`)."""
AMENDED = {"date": "2026-11-21", "reason": "a reason in words", "previous": "0" * 64, "seen_on": ["tiny"]}


def part(experiment: str, outcome: str, control: str = "match", direction: str = "increase", **more) -> dict:
    return {
        "name": f"{experiment} {outcome} {control}", "experiment": experiment, "outcome": outcome, "control": control,
        "direction": direction, "minimum": 0.1, **more,
    }  # fmt: skip


def claim(*parts: dict, **more) -> dict:
    stated = {"title": "none", "paper_says": "nothing", "source": {"section": "none", "confidence": "memory"}}
    return {**stated, "parts": list(parts), "minimum_n": 2, "registered": "2026-11-20", **more}


def places() -> dict:
    """Two words name a city; a place has four of them, in two folds, and each is asked two relations."""
    rows = []
    for place in range(4):
        for number in range(4):
            relation, score = number % 2, number >= 2
            rows.append(
                {
                    "item": f"i{place}{number}", "text": f"w{place} w{10 + number} w{20 + relation}", "cluster": f"c{place}",
                    "split": "dev" if place == 0 else "heldout", "role": "score" if score else "select", "set": "all",
                    "city": f"w{place} w{10 + number}", "place": f"p{place}", "relation": f"r{relation}", "fold": str(number // 2),
                    "second": f"w{10 + number}", "word": f"w{30 + place}", "donor": f"i{(place + 1) % 4}{number}", "wrong_donor": f"i{(place + 2) % 4}{number}",
                    "hue": f"h{(place + number) % 3}", "turn": str(number), "far_donor": f"i{(place + 3) % 4}{number - score}", "wrong_far_donor": f"i{(place + 2) % 4}{number}",
                    **({"answer": "w95"} if (place, number) == (2, 1) else {}),
                }
            )  # fmt: skip
    shown = {
        "set": "all",
        "city": "w5 w10",
        "place": "p0",
        "relation": "r0",
        "fold": "0",
        "turn": "0",
        "word": "w31",
        "donor": "i12",
        "wrong_donor": "i22",
        "far_donor": "i32",
        "wrong_far_donor": "i22",
    }
    push = {"control_position": "2", "controls": ["match", "donor", "position", "direction"], "prompts": ["shown"]}
    watching = [
        "activation:watched",
        "answer_logit",
        "others_probability",
        "kept:relation",
        "activation:unread",
        "level_probability:word",
    ]
    case = {
        "paper": PAPER,
        "prompts": {
            "shown": {"text": "w5 w10 w20", "split": "registered", "factors": shown},
            "hint": {"text": "w5 w12 w23", "factors": {"city": "w5 w12"}},
            "other": {"text": "w9 w14 w25", "factors": {"city": "w9 w14"}},
            "idle": {"text": "w8 w11 w21", "factors": {**shown, "city": "w8 w11"}},
        },
        "prompt_set": "prompts.csv",
        "supernodes": {
            "own": {"label": "own", "factor": "place", "split": "any", "across": ["fold"], "precision": 0.2, "recall": 0.6, "false_positive_rate": 0.5, "max_members": 6},
            "watched": {"label": "say", "promotes": ["answer"], "not_promotes": ["w3"], "top": 30, "layers": [1, 2]},
            "hinted": {"at": "factor:city", "active_on": ["hint"], "silent_on": ["other"]},
            "rare": {"promotes": ["answer"], "top": 2, "layers": [0, 0]},
            "unread": {"promotes": ["answer"], "top": 5},
            "alone": {"promotes": ["answer"], "top": 4},
        },
        "experiments": {
            "swap": {**push, "kind": "swap", "inhibit": "own", "inject": "own", "strengths": [2, 8, 32], "depths": [0.5], "inhibit_share": 0.5, "dose": True, "outcomes": ["donor_probability", "others_probability", "answer_probability"]},
            "far": {"kind": "inject", "inject": "own", "donor": "far_donor", "strengths": [2], "outcomes": ["donor_probability", "answer_logit"], "controls": ["match"]},
            "hinted": {**push, "kind": "inhibit", "inhibit": "hinted", "only": {"relation": "r0"}, "strengths": [0, -2], "direction": "decrease", "controls": ["match", "position"], "outcomes": watching},
            "live": {"kind": "inhibit", "inhibit": "own", "attention": "live", "strengths": [-2], "outcomes": ["lost:watched", "advantage"]},
            "held": {"kind": "inhibit", "inhibit": "own", "protocol": "iterative", "strengths": [-2], "outcomes": ["lost:watched", "answer_logit", "activation:watched"]},
            "rarely": {"kind": "inhibit", "inhibit": "own", "strengths": [-2], "outcomes": ["activation:rare", "answer_probability"]},
            "edit": {"kind": "edit", "edit": "own", "only": {"relation": "r0"}, "strengths": [0, -2], "outcomes": ["answer_logit", "answer_lost"]},
            "cost": {"kind": "edit", "edit": "own", "as_in": "edit", "only": {"relation": "r1"}, "outcomes": ["answer_logit", "answer_lost"]},
            "unread": {"kind": "inhibit", "inhibit": "alone", "outcomes": ["answer_logit"]},
            "paths": {"kind": "graph", "through": "alone", "source": "city", "only": {"relation": "r0"}, "controls": ["match"], "outcomes": ["path_share"]},
            "difference": {"kind": "contrast", "of": ["live", "held"], "share": 0.5, "outcomes": ["difference:lost:watched"]},
            "crossing": {"kind": "crossover", "of": ["swap"], "by": "hue", "outcomes": ["crossover_cv2"]},
            "apart": {"kind": "separation", "of": ["live"], "only": {"relation": "r0"}, "against": {"relation": "r1"}, "outcomes": ["auc_prompts"]},
            "scores": {"kind": "attention", "key": "factor:city", "of": ["hinted"], "by": ["own"], "heads": 0.25, "outcomes": ["pairs_attention", "pairs_answer", "scaled_attention", "scaled_answer", "pair_share", "interactions"]},
            "exact": {"kind": "attention", "key": "factor:city", "outcomes": ["score_error"]},
            "graph": {"kind": "graph", "through": "own", "source": "city", "outcomes": ["path_share", "source_share"]},
            "signs": {"kind": "signs", "of": ["hinted", "held"], "controls": ["shuffle"], "outcomes": ["agreement"]},
        },
        "streams": {"place": {"factor": "place", "across": ["fold"], "donor": "donor", "expected": "word", "only": {"set": "all"}}},
        "figures": ["fidelity"],
    }  # fmt: skip
    claims = {
        "far": claim(part("far", "donor_probability")),
        "live": claim(part("live", "advantage", "shuffle"), part("difference", "difference:lost:watched", "none")),
        "swap": claim(
            part("swap", "donor_probability", specificity={"arms": ["donor", "position"], "ratio": 2.0}, ceiling={"match": 0.2}),
            gate="correct_with_donor", expected={"twin": "not replicated"},
        ),
        "hinted": claim(part("hinted", "others_probability", "position"), part("hinted", "kept:relation"), part("hinted", "level_probability:word")),
        "watched": claim(part("hinted", "activation:watched", direction="decrease")),
        "rare": claim(part("rarely", "activation:rare", direction="decrease")),
        "edit": claim(part("edit", "answer_logit"), part("cost", "answer_logit", "none"), part("cost", "answer_lost", "none", "equivalent")),
        "crossing": claim(part("crossing", "crossover_cv2", "none", "equivalent")),
        "graph": claim(part("graph", "path_share"), part("graph", "source_share", "none")),
        "pairs": claim(part("scores", "pairs_attention"), part("scores", "pairs_answer")),
        "scaled": claim(part("scores", "scaled_attention"), part("scores", "scaled_answer")),
        "between": claim(part("scores", "pair_share"), part("scores", "interactions", "none")),
        "exact": claim(part("exact", "score_error", "none", "equivalent")),
        "apart": claim(part("apart", "auc_prompts", "shuffle")),
        "signs": claim(part("signs", "agreement", "none")),
        "silent": claim(parts=[], untestable="nobody can be asked"),
    }  # fmt: skip
    return {"case": case, "claims": claims, "rows": rows}


WORDS = ("w45", "w62", "w2", "w81", "w75", "w46")
"""What the tiny model often says."""


def poems() -> dict:
    """The last word of a prompt tells the word that its line plans; two of these rhyme and make a cluster."""
    rows = []
    for level in range(6):
        for copy in range(6):
            rows.append(
                {
                    "item": f"i{level}{copy}", "text": f"w{20 + copy} w{30 + (copy + level) % 5} w{level}", "cluster": f"c{level // 2}",
                    "split": "dev" if level < 2 else "heldout", "role": "score" if copy > 4 else "select", "set": "all",
                    "word": WORDS[level], "family": f"f{level // 2}", "first": f"w{70 + level}", "fold": str(copy % 2),
                    "spoken": f"i{level}5", "donor": f"i{(level + 1) % 6}{copy}", "wrong_donor": f"i{(level + 3) % 6}{copy}",
                }
            )  # fmt: skip
    shown = {
        "set": "all",
        "word": "w90",
        "family": "f1",
        "first": "w70",
        "fold": "0",
        "spoken": "i05",
        "donor": "i15",
        "wrong_donor": "i35",
    }
    line = {"ends": "word", "family": "family", "min_words": 1, "max_words": 3}
    push = {"inhibit": "plan", "strengths": [-2, -4], "prompts": ["shown"], "controls": ["match", "position"]}
    case = {
        "paper": PAPER,
        "prompts": {"shown": {"text": "w20 w33 w2", "factors": shown}, "c1": {"text": "w7 w7 w7", "factors": {**shown, "word": "w91"}}},
        "prompt_set": "prompts.csv",
        "supernodes": {"plan": {"factor": "word", "split": "any", "across": ["fold"], "precision": 0.3, "recall": 0.5}, "rhyme": {"factor": "family", "split": "any", "precision": 0.3, "recall": 0.5}},
        "experiments": {
            "suppress": {**push, "kind": "inhibit", "line": line, "control_position": "best", "sites": ["1", "2"], "dose": True, "outcomes": ["line_ends_family", "line_starts_donor"]},
            "inject": {"kind": "swap", "inhibit": "plan", "inject": "plan", "strengths": [4], "line": {**line, "samples": 2, "forced": {1: "first"}}, "sites": ["1"], "outcomes": ["answer_log_odds", "line_ends_family"]},
            "resample": {"kind": "exchange", "line": {**line, "hidden": True}, "at": "last", "control_position": "2", "controls": ["position"], "prompts": ["shown"], "outcomes": ["line_ends_own", "ending_log_odds"]},
            "unread": {"kind": "exchange", "line": line, "controls": ["position"], "outcomes": ["line_ends_own"]},
            "census": {"kind": "census", "through": "plan", "only": {"set": "all"}, "sites": ["1", "2"], "controls": ["position", "shuffle", "random"], "outcomes": ["planned", "candidates", "ordinary", "probe"]},
        },
    }  # fmt: skip
    claims = {
        "suppress": claim(part("suppress", "line_ends_family", "position")),
        "inject": claim(part("inject", "answer_log_odds"), part("inject", "line_ends_family")),
        "resample": claim(part("resample", "ending_log_odds", "position"), part("resample", "line_ends_own", "clean", "decrease")),
        "census": claim(part("census", "planned", "position", ceiling={"shuffle": 0.5}), part("census", "probe", "position", specificity={"arms": ["shuffle"], "ratio": 2.0})),
        "rivals": claim(part("census", "candidates", "shuffle"), part("census", "ordinary", "shuffle"), part("census", "probe", "shuffle")),
    }  # fmt: skip
    return {"case": case, "claims": claims, "rows": rows}


def sums() -> dict:
    """Pairs `w<a> w<b>`: a grid of them selects, and some that are scored name the plain pair with the same operands."""
    size = 9
    rows = [
        {
            "item": f"g{a}{b}", "text": f"w{a} w{b}", "cluster": f"c{a}", "split": "dev", "role": "select",
            "set": "odd" if (a + b) % 7 == 0 else "plain", "a": str(a), "b": str(b), "c": str(size - 1 - a), "d": str(size - 1 - b), "plain": "", "wrong_plain": "",
        }
        for a in range(size)
        for b in range(size)
    ]  # fmt: skip
    for a in range(0, size - 1, 2):
        b = (2 * a + 3) % size
        rows.append(
            {
                "item": f"s{a}", "text": f"w40 w{a} w{b}", "cluster": f"c{a}", "split": "heldout", "role": "score", "set": "told",
                "a": str(a), "b": str(b), "c": str(size - 1 - a), "d": str(size - 1 - b), "plain": f"g{a}{b}", "wrong_plain": f"g{a + 1}{(b + 3) % size}",
            }
        )  # fmt: skip
    case = {
        "paper": PAPER,
        "prompts": {"shown": {"text": "w3 w4", "factors": {"set": "plain", "a": "3", "b": "4"}}},
        "prompt_set": "prompts.csv",
        "operands": {"first": "a", "second": "b", "only": {"set": "plain"}},
        "supernodes": {
            "first": {"at": "-2", "operands": {"family": "add"}},
            "lookup": {"at": "last", "operands": {"family": "add", "at": "-2"}, "layers": [0, 1]},
            "sum": {"at": "last", "operands": {"family": "add", "digit": ["ones"], "at": "-2"}},
            "none": {"at": "last", "operands": {"family": "sum", "at": "-2"}},
        },
        "experiments": {
            "classes": {"kind": "classes", "controls": ["shuffle"], "outcomes": ["class_share", "share:error"]},
            "wiring": {"kind": "wiring", "of": ["lookup", "sum"], "controls": ["shuffle"], "outcomes": ["auc_virtual"]},
            "connectivity": {"kind": "connectivity", "controls": ["shuffle"], "outcomes": ["input:add>sum", "input:other>other"]},
            "reuse": {"kind": "reuse", "of": ["lookup"], "controls": ["donor", "random"], "outcomes": ["shared_activity", "shared_writing"]},
            "inhibit": {"kind": "inhibit", "inhibit": "first", "strengths": [-1], "outcomes": ["answer_logit"]},
            "made_of": {"kind": "structure", "template": "set", "controls": ["match"], "outcomes": ["closed", "scaffold"]},
            "worth": {"kind": "faithfulness", "controls": ["random"], "outcomes": ["completeness", "knock_on:1"]},
        },
    }  # fmt: skip
    claims = {
        "made-of": claim(part("made_of", "scaffold", "match")),
        "worth": claim(part("worth", "knock_on:1", "random")),
        "classes": claim(part("classes", "class_share", "shuffle")),
        "wiring": claim(part("wiring", "auc_virtual", "shuffle")),
        "connectivity": claim(part("connectivity", "input:other>other", "shuffle")),
        "reuse": claim(part("reuse", "shared_activity", "donor", ceiling={"random": 0.5}), amended=AMENDED),
        "inhibit": claim(part("inhibit", "answer_logit")),
    }
    return {"case": case, "claims": claims, "rows": rows}


def languages() -> dict:
    """What is asked of what, in four languages without a common word."""
    rows = []
    for number in range(24):
        scale, relation, language = number // 8, number // 4 % 2, number % 4
        rows.append(
            {
                "item": f"i{number}", "text": f"w{1 + 2 * language + relation} w{10 + 4 * scale + language} w30", "cluster": f"s{scale}",
                "split": "heldout", "role": "score", "concept": f"s{scale}", "relation": f"r{relation}",
                "language": ("en", "fr", "zh", "de")[language], "scale": f"s{scale}", "language_fold": str(language // 2),
                "donor": f"i{(number + 4) % 24}", "far_donor": f"i{(number + 8) % 24}",
            }
        )  # fmt: skip
    shown = {key: rows[0][key] for key in ("concept", "relation", "language", "scale", "language_fold")}
    case = {
        "paper": PAPER,
        "prompts": {"shown": {"text": "w1 w10 w31", "factors": shown}},
        "prompt_set": "prompts.csv",
        "supernodes": {"own": {"promotes": ["answer"], "top": 40}, "upper": {"promotes": ["answer"], "top": 40, "layers": [1, 2]}},
        "experiments": {
            "core": {"kind": "sharing", "of": ["own"], "outcomes": ["shared", "default_written:en"], "controls": ["match"]},
            "close": {"kind": "sharing", "of": ["upper"], "donor": "far_donor", "only": {"relation": "r0"}, "outcomes": ["closeness"]},
            "overlap": {"kind": "sharing", "controls": ["shuffle"], "outcomes": ["overlap_profile", "overlap:1"]},
            "half": {"kind": "sharing", "only": {"relation": "r0"}, "controls": ["shuffle"], "outcomes": ["overlap:1"]},
            "scale": {"kind": "scale", "of": ["overlap"], "outcomes": ["overlap:1"]},
        },
    }  # fmt: skip
    claims = {
        "core": claim(part("core", "shared"), part("core", "default_written:en")),
        "close": claim(part("close", "closeness")),
        "overlap": claim(part("overlap", "overlap_profile", "shuffle")),
        "scale": claim(part("scale", "overlap:1", "smaller")),
    }
    return {"case": case, "claims": claims, "rows": rows}


def things() -> dict:
    """A thing is named by one word, and what follows by two others; where the model holds it is found."""
    rows = [
        {
            "item": f"i{thing}{copy}", "text": f"w{20 + copy} w{50 + thing} w{40 + copy % 2}", "cluster": f"c{thing}",
            "split": "dev" if thing < 3 else "heldout", "role": "score" if copy > 1 else "select",
            "thing": f"w{50 + thing}", "copy": f"k{copy}", "relation": f"r{copy % 2}", "fold": str(copy // 2),
        }
        for thing in range(6)
        for copy in range(4)
    ]  # fmt: skip
    rule = {
        "factor": "thing",
        "split": "any",
        "across": ["fold"],
        "precision": 0.2,
        "recall": 0.5,
        "false_positive_rate": 0.6,
    }
    found = {**rule, "at": "found", "among": ["last", "factor:thing"], "given": ["copy", "relation"]}
    shown = {"thing": "w50", "copy": "k0", "relation": "r0", "fold": "0"}
    push = {"kind": "inhibit", "strengths": [-2], "controls": ["match"], "outcomes": ["answer_logit"]}
    case = {
        "paper": PAPER,
        "prompts": {"shown": {"text": "w24 w50 w40", "factors": shown}},
        "prompt_set": "prompts.csv",
        "supernodes": {"held": found, "unread": {**found}},
        "experiments": {"hold": {**push, "inhibit": "held"}, "unread": {**push, "inhibit": "unread"}},
    }
    return {"case": case, "claims": {"hold": claim(part("hold", "answer_logit"))}, "rows": rows}


CASES = {"places": places, "poems": poems, "sums": sums, "languages": languages, "things": things}


def said(model, text: str) -> str:
    """The most probable next token."""
    logits, _ = run(model, token_batch(model, encode(model, text)), positions=-1)
    return token_text(model, int(logits[0, -1].argmax()))


def chatting(model):
    """The model with a chat template, which is two words around a message."""
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.chat_template = "{% for message in messages %}w60 {{ message.content }} w61{% endfor %}{% if add_generation_prompt %} w62{% endif %}"
    return replace(model, tokenizer=tokenizer, encoded={})


def answered(model, stated: dict) -> dict:
    """What a case says, with the model's own answers to all prompts that have none."""
    for prompt in (*stated["case"]["prompts"].values(), *stated["rows"]):
        prompt.setdefault("answer", said(model, prompt["text"]))
    return stated


def write(root: Path, stated: dict, name: str = "toy") -> None:
    """The files of a case; JSON is YAML."""
    folder, case = root / "experiments" / name, stated["case"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.yaml").write_text(json.dumps(case), encoding="utf-8")
    (folder / "claims.yaml").write_text(json.dumps(stated["claims"]), encoding="utf-8")
    for file in {case["prompt_set"], *case.get("prompt_sets", {}).values()}:
        with (folder / file).open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, list(stated["rows"][0]))
            writer.writeheader()
            writer.writerows(stated["rows"])


def evidence_of(model, case, claims) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `prompts` of a case, by the functions of the pipeline in its order."""
    transcoders = random_transcoders(model)
    case = in_chats(model, case)
    cache, prompts = prompts_table(model, transcoders, case)
    case = with_found_sites(case, find_sites(CasePrompts(model, case, prompts), STATISTICS.seed))
    operands = read_grid(model, transcoders, case, prompts, cache)[0] if case.operands else None
    members = group(model, transcoders, case, prompts, cache, operands)
    context = CaseContext(model, case, prompts, STATISTICS, transcoders, members, cache, operands)
    reduced = reduce_graphs(context, AttributionConfig())
    attributed = stacked([reduced.evidence, *([reduce_sharing(context)] if case.of_kind(Sharing) else [])])
    writing = any(getattr(one, "line", None) for one in case.experiments.values())
    perturbed = [run_experiments(context)[0], *([run_lines(context)[0]] if writing else [])]
    perturbed = stacked([*perturbed, *([run_census(context)] if case.of_kind(Census) else []), run_attention(context)])
    sizes = (attributed, attributed.assign(value=attributed["value"] / 2))
    derived = computed(case, claims, perturbed, reduced.edges, prompts, sizes)
    return stacked([attributed, perturbed, *derived]), prompts


def judged(claims, case, evidence: pd.DataFrame, prompts: pd.DataFrame) -> dict[str, list[float]]:
    """All numbers of each claim, judged as if it were the only one, and what a model that lacks the mechanism is held to."""
    scope = {name: one.only for name, one in case.experiments.items()}
    meta, found = Meta(case.name, "tiny", "random", scope=scope), {}
    for one in measure(claims, evidence, prompts, meta, STATISTICS):
        numbers = [getattr(one, name) for name in NUMBERS]
        verdict = VERDICTS.index(part_verdict(one, one.p))
        found.setdefault(one.claim.id, []).extend(
            [
                *numbers,
                verdict,
                *(check.holds for check in sorted(one.checks, key=lambda check: (check.kind, check.arm))),
            ]
        )
    for claim in claims:
        found[claim.id] += [VERDICTS.index(verdict) for verdict in claim.expected.values()]
    return found


def opened(root: Path, name: str = "toy"):
    """The case and the claims of files."""
    case = load_case(root, name)
    return case, load_claims(root, name, case)


def alone(case, claims, name: str):
    """The case and one of its claims, with nothing but what this one needs."""
    (claim,) = (claim for claim in claims if claim.id == name)
    needed = [part.experiment for part in claim.parts]
    for one in needed:
        needed += case.experiments[one].rests_on
    experiments = {one: case.experiments[one].model_copy(update={"prompts": ()}) for one in dict.fromkeys(needed)}
    if any(isinstance(one, Signs) for one in experiments.values()):
        experiments |= case.of_kind(Graph)  # without which a case with signs is refused
    nodes = {one: case.supernodes[one] for experiment in experiments.values() for one in sorted(experiment.names())}
    shown = {one: case.prompts[one] for rule in nodes.values() for one in (*rule.active_on, *rule.silent_on)}
    if any("overlap" in one.form.name for experiment in experiments.values() for one in experiment.outcomes):
        shown = case.prompts  # whose number the hash covers, as unrelated prompts are drawn by the numbers of rows
    return case.model_copy(update={"prompts": shown, "supernodes": nodes, "experiments": experiments}), (claim,)
