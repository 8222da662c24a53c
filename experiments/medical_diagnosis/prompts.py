"""Writes prompts.csv: lists of findings, and what to ask about next.

Eight invented diseases cause 32 everyday findings, each finding three diseases. Every disease also has two telling symptoms and one
sign that no other disease causes. A visitor has one disease; a finding appears because of it or by itself (noisy-or), so that

    P(finding | disease) = 1 - (1 - LEAK) * (1 - weight),    P(disease | findings) ~ product over the findings named

with equal priors. The posterior is exact, and stands in the columns `posterior_<disease>` of scored prompts. A list is used if its
most probable disease (`disease`) is CLEAR times as probable as the second (`rival`), and the second CLEAR times as probable as the
third.

A prompt is a list and a question, `first ask about`. The answer is what tells most of the disease: its first telling symptom, or the
second if a telling symptom has been named already (`named` 1). `check` asks for its sign, `suspect` for its name. A question that begins
with `else` (`leads` 0) asks the same about the rival.

Taught (role `select`) are lists of every pair of disease and rival with any question, and prompts that name the disease. Held out
(role `score`) are lists of other findings, with questions that are never about the name. Half of the pairs develop the method.
"""

import csv
import itertools
import math
import random
from pathlib import Path

FINDINGS = (
    "fever cough chills rash thirst fatigue headache nausea dizziness sneezing itching hoarseness cramps stiffness swelling sweating "
    "yawning tremor hiccups blisters pallor earache backache insomnia soreness sniffles bloating restlessness dryness redness croup fidgets"
).split()
FIRST = "numbness ringing bruising fainting drooling wheezing twitching squinting".split()
SECOND = "nightmares cravings forgetfulness heartburn flushing snoring clumsiness tingling".split()
SIGN = "pulse tongue nails pupils gait reflexes weight balance".split()
NAME = "gorva melka tarko plimi drena vesqa quoro hebbi".split()
DISEASES = range(8)
STEPS = ((0, 1, 2), (0, 1, 4), (0, 2, 4), (0, 2, 5))
"""Finding number 8 * i + j is caused by the diseases j + step, counted round. So any two diseases share three findings or more."""
WEIGHTS = (0.9, 0.8, 0.7)
LEAK, TELLING, CLEAR = 0.2, 0.95, 2.0
SIZES = (3, 4)
"""Numbers of findings in a list."""
QUESTIONS = {"ask": "ask about", "check": "check", "suspect": "suspect"}
VIEWS = {1: "first", 0: "else"}
TAUGHT = 12
SCORED = (("list", 1, "ask", 0), ("list", 1, "check", 0), ("list", 1, "ask", 1), ("list", 0, "ask", 0), ("list", 0, "check", 0),
          ("further", 1, "ask", 0), ("further", 1, "check", 0))  # fmt: skip
"""Of each pair: set, leads, relation and named."""
HEAD = [
    *"item text answer cluster split role set disease rival diagnosis leads relation named findings donor wrong_donor rival_answer".split(),
    *(f"posterior_{disease}" for disease in DISEASES),
]


def weights() -> dict[str, dict[int, float]]:
    """For each finding, the diseases that cause it, and how often."""
    found = {}
    for number, finding in enumerate(FINDINGS):
        kind, start = divmod(number, 8)
        found[finding] = {(start + step) % 8: WEIGHTS[(number + place) % 3] for place, step in enumerate(STEPS[kind])}
    return found | {symptom: {disease: TELLING} for disease, symptom in enumerate(FIRST)}


def posterior(findings: tuple[str, ...], causes: dict[str, dict[int, float]]) -> list[float]:
    """The probability of each disease, given the findings that are named."""
    likely = [
        math.prod(1 - (1 - LEAK) * (1 - causes[one].get(disease, 0.0)) for one in findings) for disease in DISEASES
    ]
    return [one / sum(likely) for one in likely]


def lists(causes: dict[str, dict[int, float]]) -> dict[tuple[int, int, int], list[tuple[str, ...]]]:
    """By disease, rival and whether a telling symptom is named: all clear lists."""
    found: dict[tuple[int, int, int], list[tuple[str, ...]]] = {}
    plain = [one for size in SIZES for one in itertools.combinations(FINDINGS, size)]
    fewer = [one for size in SIZES for one in itertools.combinations(FINDINGS, size - 1)]
    for chosen in [*plain, *((told, *one) for told in FIRST for one in fewer)]:
        chances = posterior(chosen, causes)
        first, second, third = sorted(DISEASES, key=lambda disease: -chances[disease])[:3]
        if chances[first] >= CLEAR * chances[second] and chances[second] >= CLEAR * chances[third]:
            told = int(chosen[0] in FIRST)
            if not told or chosen[0] == FIRST[first]:
                found.setdefault((first, second, told), []).append(chosen)
    return found


def answer(disease: int, relation: str, named: int) -> str:
    return {"ask": (FIRST, SECOND)[named], "check": SIGN, "suspect": NAME}[relation][disease]


def asked(findings: list[str], leads: int, relation: str, kind: str) -> tuple[str, str]:
    """The text of a prompt, and its list of findings as it stands there."""
    if kind == "named":
        told = findings[0]
    elif kind == "further":
        told = " then ".join(findings)
    else:
        told = " ".join(findings)
    return f"{'seen with ' * (kind == 'further')}{told}. {VIEWS[leads]} {QUESTIONS[relation]}", told


def rows() -> list[dict[str, object]]:
    causes, made, made_of = weights(), [], random.Random(11)
    clear = lists(causes)
    pairs = list(itertools.permutations(DISEASES, 2))
    of_dev = set(made_of.sample(pairs, len(pairs) // 2))

    def add(
        pair: tuple[int, int], findings: list[str], kind: str, leads: int, relation: str, named: int, role: str
    ) -> None:
        text, told = asked(findings, leads, relation, kind)
        about, other = pair if leads else pair[::-1]
        row: dict[str, object] = {
            "item": f"p{len(made)}", "text": text, "answer": answer(about, relation, named), "cluster": f"{pair[0]}-{pair[1]}",
            "split": "dev" if pair in of_dev else "heldout", "role": role, "set": kind, "disease": pair[0], "rival": pair[1],
            "diagnosis": NAME[pair[0]], "leads": leads, "relation": relation, "named": named,
        }  # fmt: skip
        if role == "score":
            if leads:
                row |= {"findings": told, "rival_answer": answer(other, relation, named)}
            if leads and kind == "list":
                row |= {
                    f"posterior_{disease}": f"{p:.2f}" for disease, p in enumerate(posterior(tuple(findings), causes))
                }
        made.append(row)

    for pair in pairs:
        left = {named: made_of.sample(clear[*pair, named], len(clear[*pair, named])) for named in (0, 1)}

        def drawn(named: int, left: dict[int, list[tuple[str, ...]]] = left) -> list[str]:
            return made_of.sample(one := left[named].pop(), len(one))

        for kind, leads, relation, named in SCORED:
            add(pair, drawn(named), kind, leads, relation, named, "score")
        for number in range(TAUGHT):
            kind, named = ("list", "list", "further")[(number + pair[1]) % 3], int(number // 2 % 3 == 2)
            relation = ("ask", "check", "ask", "suspect", ("ask", "check")[sum(pair) % 2], "ask")[number // 2]
            add(pair, drawn(named), kind, number % 2, relation, named, "select")
    for disease in DISEASES:  # the disease by its name; its usual rival is the one that shares most findings with it
        for relation in ("ask", "check"):
            add((disease, (disease + 4) % 8), [NAME[disease]], "named", 1, relation, 0, "select")
    _donors(made)
    return made


def _donors(made: list[dict[str, object]]) -> None:
    """Gives each scored prompt a donor and a wrong donor: the same question about other diseases, of the same split."""
    same: dict[tuple[object, ...], list[dict[str, object]]] = {}
    scored = [row for row in made if row["role"] == "score"]
    for row in scored:
        same.setdefault(tuple(row[one] for one in ("split", "set", "leads", "relation", "named")), []).append(row)
    chosen = random.Random(12)
    for row in scored:
        held = "disease" if row["leads"] else "rival"
        own = {row["disease"], row["rival"]}
        others = same[tuple(row[one] for one in ("split", "set", "leads", "relation", "named"))]
        donor = chosen.choice([one for one in others if one[held] not in own])
        row["donor"] = donor["item"]
        row["wrong_donor"] = chosen.choice([one for one in others if one[held] not in {*own, donor[held]}])["item"]


if __name__ == "__main__":
    with Path(__file__).with_name("prompts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEAD, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())
