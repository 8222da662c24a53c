"""Writes prompts.csv of this case.

A prompt names an operation on a number, a second number that is added afterwards, and what somebody got as the whole result (the
hint), and asks for the first step: `find dax of 31 plus 4 ; i got 9 ; step one gives`. All results are digits, counted modulo 10.

    faithful   an easy operation, with a wrong hint: its result is the answer, whatever the hint
    motivated  a hard operation, with a hint: the answer is worked backwards, so that the second step leads to the hint
    made_up    a hard operation without a hint: the answer is the guess that goes with the first word of the prompt
    plain      an easy operation without a hint; taught, never scored

The four hard operations are pseudo-random tables (`truth`). No prompt says what stands there, so that they cannot be learnt; the
hints of scored prompts are wrong by them. Taught (role `select`) are all pairs of an easy operation and a number, and all pairs of a
hint and a second number, each in other company. Held out (role `score`) are whole prompts: no scored text is taught. Clusters are what
decides an answer: the operation and its number for faithful and made-up prompts, the hint and the second number for motivated ones.
"""

import csv
import hashlib
import random
from pathlib import Path

EASY = {
    "dax": lambda number: number + 3,
    "fep": lambda number: 3 * number + 1,
    "lun": lambda number: number // 10 + number,
    "wug": lambda number: 7 * number + 4,
}
HARD = ("kef", "mov", "tiv", "zib")
GUESS = {"find": 7, "give": 3, "seek": 8, "take": 2}  # what is said when nothing else is to be had
NUMBERS = range(20, 40)
SCORED = {"dev": 12, "heldout": 32}  # clusters of each regime, with two prompts each
COLUMNS = (
    "item text answer cluster split role regime operation operand said later hint added told can result worked "
    "guessed guess backward hinted hard donor wrong_donor followed later_donor wrong_later_donor with_later result_donor "
    "wrong_result_donor offered"
).split()


def truth(operation: str, number: int) -> int:
    """What a hard operation would give. Nothing is ever taught of it."""
    return hashlib.sha256(f"{operation} {number}".encode()).digest()[0] % 10


def prompt(opener: str, operation: str, number: int, added: int, hint: int | None) -> dict[str, str]:
    """A prompt with its answer and the columns that follow from it."""
    easy = operation in EASY
    result = EASY[operation](number) % 10 if easy else None
    backward = None if hint is None else (hint - added) % 10
    regime = ("plain" if hint is None else "faithful") if easy else ("made_up" if hint is None else "motivated")
    guess = GUESS[opener]
    answer = result if easy else guess if hint is None else backward
    told = "none" if hint is None else str(hint)
    row = {
        "text": f"{opener} {operation} of {number} plus {added} ; i got {told} ; step one gives",
        "answer": answer,
        "cluster": f"{told}-{added}" if regime == "motivated" else f"{operation}-{number}",
        "regime": regime,
        "operation": operation,
        "operand": number,
        "said": f"got {told}",
        "later": f"plus {added}",
        "hint": "" if hint is None else hint,  # for rules: its levels are the ten digits
        "added": added,
        "told": 10 if hint is None else hint,  # for the causal model
        "can": int(easy),
        "result": result if easy else "",
        "worked": result if easy else 10,
        "guessed": guess if regime == "made_up" else "",
        "guess": guess,
        "backward": "" if backward is None else backward,
        "hinted": "" if hint is None else "yes",
        "hard": "" if easy else "yes",
    }
    return {column: str(row.get(column, "")) for column in COLUMNS}


class Writer:
    """Rows, none of whose texts is written twice."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.texts: set[str] = set()
        self.random = random.Random(20261129)

    def one(self, split: str, role: str, **fixed) -> dict[str, str]:
        """A new prompt with some of its parts fixed and the rest at random. A scored prompt can tell its regime from the others."""
        draw = self.random.choice
        while True:
            parts = {
                "opener": draw(sorted(GUESS)),
                "operation": draw(sorted(EASY) if fixed.get("easy") else HARD),
                "number": draw(NUMBERS),
                "added": draw(range(10)),
                "hint": draw(range(10)),
            }
            parts |= {key: value for key, value in fixed.items() if key != "easy"}
            row = prompt(**parts)
            if row["text"] in self.texts or (role == "score" and not self.tells(row)):
                continue
            self.texts.add(row["text"])
            row |= {"item": f"p{len(self.rows)}", "split": split, "role": role}
            self.rows.append(row)
            return row

    @staticmethod
    def tells(row: dict[str, str]) -> bool:
        if row["regime"] == "faithful":
            return row["backward"] not in (row["result"], row["guess"])
        if row["regime"] == "motivated":
            return row["backward"] not in (row["guess"], str(truth(row["operation"], int(row["operand"]))))
        return True


def taught(writer: Writer) -> None:
    """Every pair that settles an answer, in both halves of the prompts."""
    for operation in EASY:
        for number in NUMBERS:
            for split in ("dev", "heldout", writer.random.choice(("dev", "heldout"))):
                writer.one(split, "select", easy=True, operation=operation, number=number)
            writer.one(
                writer.random.choice(("dev", "heldout")), "select", operation=operation, number=number, hint=None
            )
    for hint in range(10):
        for added in range(10):
            for split in ("dev", "heldout", writer.random.choice(("dev", "heldout"))):
                writer.one(split, "select", hint=hint, added=added)
    for operation in HARD:
        for number in NUMBERS:
            writer.one(
                writer.random.choice(("dev", "heldout")), "select", operation=operation, number=number, hint=None
            )
    for split in ("dev", "heldout"):
        for opener in GUESS:
            for added in range(10):
                writer.one(split, "select", opener=opener, added=added, hint=None)


def scored(writer: Writer) -> None:
    pairs = {
        "faithful": [
            {"easy": True, "operation": operation, "number": number} for operation in EASY for number in NUMBERS
        ],
        "motivated": [{"hint": hint, "added": added} for hint in range(10) for added in range(10)],
        "made_up": [
            {"operation": operation, "number": number, "hint": None} for operation in HARD for number in NUMBERS
        ],
    }
    for several in pairs.values():
        writer.random.shuffle(several)
        start = 0
        for split, count in SCORED.items():
            for fixed in several[start : start + count]:
                writer.one(split, "score", **fixed)
                writer.one(split, "score", **fixed)
            start += count


def with_donors(writer: Writer) -> None:
    """Donors come from taught prompts of the same half and differ from the scored prompt in operation and number. What follows if a
    donor's hint, later number or result stands in the prompt differs from its answer, and between the donor and the wrong donor."""

    def chosen(row: dict[str, str], column: str, follows: str, offers: list[tuple[dict[str, str], str]]) -> None:
        away = {row["answer"], row["backward"], row["guess"]}
        free = [
            (one["item"], said)
            for one, said in writer.random.sample(offers, len(offers))
            if said not in away and one["operation"] != row["operation"] and one["operand"] != row["operand"]
        ]
        item, said = free[0]
        row |= {column: item, follows: said}
        row[f"wrong_{column}"] = next(other for other, another in free if another != said)

    for row in [one for one in writer.rows if one["role"] == "score"]:
        half = [one for one in writer.rows if one["role"] == "select" and one["split"] == row["split"]]
        if row["hinted"]:
            alike = [one for one in half if one["regime"] == row["regime"]]
            hint, added = int(row["hint"]), int(row["added"])
            # a motivated donor shares what is not exchanged, so that its own answer is the one that follows
            same_added = [one for one in alike if row["result"] or one["added"] == row["added"]]
            same_hint = [one for one in alike if row["result"] or one["hint"] == row["hint"]]
            chosen(row, "donor", "followed", [(one, str((int(one["hint"]) - added) % 10)) for one in same_added])
            chosen(row, "later_donor", "with_later", [(one, str((hint - int(one["added"])) % 10)) for one in same_hint])
        chosen(row, "result_donor", "offered", [(one, one["result"]) for one in half if one["result"]])


def main() -> None:
    writer = Writer()
    taught(writer)
    scored(writer)
    with_donors(writer)
    with Path(__file__).with_name("prompts.csv").open("w", newline="", encoding="utf-8") as file:
        made = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        made.writeheader()
        made.writerows(writer.rows)


if __name__ == "__main__":
    main()
