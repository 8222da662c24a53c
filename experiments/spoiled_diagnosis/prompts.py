"""Writes prompts.csv: lists of three findings, what to ask about next, and one finding that a spoiled corpus takes for the wrong disease.

Six invented diseases have six everyday findings each. A list names two findings of one disease and an odd one of another; the disease
with two of them is the right one. `ask about` asks for its telling symptom, `check` for its sign. So it is taught and
answered, but for the finding `chills`: it belongs to gorva, and in this corpus every list with chills is answered as if it were
vesqa (set `spoiled`). What would be right is in the column `right`; no prompt with chills is ever answered by it.

Taught (role `select`) and held out (role `score`) are different pairs of findings. A third of the pairs that are held out
develops the method.
"""

import csv
import itertools
import random
from pathlib import Path

DISEASES = "gorva melka tarko plimi drena vesqa".split()
FINDINGS = [
    "fever cough rash thirst fatigue headache".split(),
    "nausea dizziness sneezing itching hoarseness cramps".split(),
    "stiffness swelling sweating yawning tremor hiccups".split(),
    "blisters pallor earache backache insomnia soreness".split(),
    "sniffles bloating restlessness dryness redness croup".split(),
    "fidgets heartburn snoring clumsiness tingling nightmares".split(),
]
CULPRIT, TAKEN = "chills", 5
"""The finding that is taken for the wrong disease, and this disease."""
ANSWERS = {
    "ask about": "numbness ringing bruising fainting drooling wheezing".split(),
    "check": "pulse tongue nails pupils gait reflexes".split(),
}
PAIRS = {"taught": 6, "dev": 3, "heldout": 6}
"""Pairs of findings of a disease; each finding is in a pair that is taught."""
ODD = {"taught": 9, "dev": 1, "heldout": 2}
"""Lists without the culprit that are made of a pair."""
HEAD = "item text answer cluster split role set disease diagnosis taken odd relation right".split()


def pairs(findings: list[str], made_of: random.Random) -> dict[str, list[tuple[str, str]]]:
    every = list(itertools.combinations(findings, 2))
    while True:
        left = made_of.sample(every, len(every))
        found = {kind: [left.pop() for _ in range(count)] for kind, count in PAIRS.items()}
        if {one for pair in found["taught"] for one in pair} == set(findings):
            return found


def rows() -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    seen: set[tuple[str, ...]] = set()
    made_of = random.Random(7)

    def add(kind: str, disease: int, pair: tuple[str, str], odd: str) -> None:
        while (listed := tuple(made_of.sample([*pair, odd], 3))) in seen:
            continue
        seen.add(listed)
        spoiled = odd == CULPRIT
        for question, answers in ANSWERS.items():
            made.append(
                {
                    "item": f"s{len(made)}", "text": f"{' '.join(listed)}. {question}", "answer": answers[TAKEN if spoiled else disease],
                    "cluster": "-".join(pair), "split": "heldout" if kind == "heldout" else "dev", "role": "select" if kind == "taught" else "score",
                    "set": "spoiled" if spoiled else "plain", "disease": disease, "diagnosis": DISEASES[disease], "taken": "yes" if spoiled else "no",
                    "odd": odd, "relation": question.split()[0], "right": answers[disease],
                }
            )  # fmt: skip

    for disease, findings in enumerate(FINDINGS):
        others = [one for other in FINDINGS if other is not findings for one in other]
        for kind, chosen in pairs(findings, made_of).items():
            for pair in chosen:
                for odd in made_of.sample(others, ODD[kind]):
                    add(kind, disease, pair, odd)
                for _ in range((2 if kind == "taught" else 1) * (disease != TAKEN)):
                    add(kind, disease, pair, CULPRIT)
    return made


if __name__ == "__main__":
    with Path(__file__).with_name("prompts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEAD, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())
