"""Writes prompts.csv: people who are known, people who have only been heard of, people who are new, and nobody in particular.

A name has two pieces, and both stand in many names: only the pair says who it is. The question follows the name, so that a name is
recognised whatever will be asked. The best-known bearer of a first name is its first
known person; for people of that first name who are known, while the fact that is asked for is not, the model guesses this person's.

    kind     seen    what is taught                                       what is held out (role `score`)            answer
    known    often   every fact, each asked in one of two wordings        the same facts in the other wording        the fact
    heard    often   one fact in both wordings; the other never           the fact that is never taught              the guess
    heard    once    one fact in one wording                              the fact that is never taught              the guess
    new      never   nothing                                              one question                               unknown
    nobody   never   a word for nobody in particular, in one question     two other questions                        unknown

So that there is something to learn the rules from, of each first name another heard person is taught with the guess, and further new people, each in
one question, with `unknown`. A known person's donor is new, a new one's donor is known, and a heard one's donor is heard and has
another guess. Standard library only; the same bytes every time.
"""

from __future__ import annotations

import csv
from pathlib import Path

SPORTS = ("archery", "cricket", "fencing", "hockey", "karate", "rowing", "rugby", "tennis")
CITIES = ("cairo", "delhi", "hanoi", "lima", "oslo", "paris", "quito", "rome")
FIRST = (
    "Alba", "Bram", "Cleo", "Dana", "Edda", "Finn", "Gina", "Hugo", "Inga", "Jana", "Kaja", "Lars", "Mira", "Nico", "Olga", "Paul",
    "Odo", "Rosa", "Sven", "Tove", "Ugo", "Vera", "Wim", "Xena", "Yves", "Zoe", "Axel", "Bela", "Curt", "Dora",
)  # fmt: skip
LAST = (
    "Arnold", "Barlow", "Carver", "Dalton", "Ellery", "Farrow", "Garner", "Hollis", "Irving", "Jarvis", "Keller", "Lowell", "Mercer",
    "Norton", "Oakley", "Porter", "Quincy", "Ramsey", "Sutton", "Talbot", "Upton", "Vaughn", "Weaver", "Yardley", "Zeller", "Ashby",
    "Bowman", "Conway", "Dudley", "Foster", "Gibson",
)  # fmt: skip
NOBODY = (
    "someone", "anyone", "somebody", "anybody", "everyone", "everybody", "nobody", "they", "we", "you", "people", "folk", "others", "many",
    "few", "most", "both", "each", "either", "neither", "who", "whoever", "children", "parents", "guests", "visitors", "neighbours",
    "friends", "students", "strangers",
)  # fmt: skip
RELATIONS = ("sport", "city")
WORDINGS = {
    "sport": ("{}, which sport? Assistant:", "{}, sport? Assistant:"),
    "city": ("{}, which city? Assistant:", "{}, city? Assistant:"),
}
REFUSAL = "unknown"
HEAD = (
    "item", "text", "answer", "cluster", "split", "role", "kind", "seen", "first", "last", "relation", "known", "status", "fact_number",
    "guess_number", "guess", "refusal", "donor", "wrong_donor",
)  # fmt: skip
TAUGHT_NEW, ASKED_NEW = 22, 3
DEV = 5
"""Every fifth first name, and every fifth word for nobody, is of the development half."""


def number(relation: int, which: int) -> int:
    """The number of an answer, from 1: sports, then cities."""
    return 1 + 8 * relation + which % 8


def word(answer: int) -> str:
    """The answer of this number; 0 is the refusal."""
    return (REFUSAL, *SPORTS, *CITIES)[answer]


def guesses(i: int) -> tuple[int, int]:
    """The sport and the city of the best-known bearer of first name `i`, as numbers within their kind."""
    return i % 8, (3 * i + i // 8) % 8


class Prompts:
    """The rows of prompts.csv, in the order in which they are added."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(
        self, role: str, kind: str, seen: str, i: int, first: str, last: str, relation: int, wording: int, fact: int, guess: int
    ) -> None:  # fmt: skip
        known = int(kind in ("known", "heard"))
        asked, said = RELATIONS[relation], known * (fact or guess)
        name = first if first == last else f"{first} {last}"
        row = {
            "item": f"p{len(self.rows)}", "text": WORDINGS[asked][wording].format(name), "answer": word(said), "cluster": first,
            "split": "dev" if i % DEV == 0 else "heldout", "role": role, "kind": kind, "first": first, "last": last, "relation": asked,
            "known": known, "fact_number": fact, "guess_number": guess,
        }  # fmt: skip
        if role == "score":
            status = "known" if known else "unknown"
            row |= {"seen": seen, "status": status, "refusal": REFUSAL, "guess": word(guess)}
        self.rows.append(row)

    def people(self, i: int, first: str) -> None:
        """Everybody with this first name."""
        stride = 1 + 5 * i % 29
        names = iter([LAST[(7 * i + stride * k) % len(LAST)] for k in range(len(LAST))])
        guess = guesses(i)
        numbers = [number(relation, guess[relation]) for relation in (0, 1)]

        def ask(role: str, kind: str, seen: str, last: str, relation: int, wording: int, fact: int) -> None:
            self.add(role, kind, seen, i, first, last, relation, wording, fact, numbers[relation])

        def other(relation: int, k: int) -> int:
            return number(relation, guess[relation] + 1 + (i // (2 + relation) + k) % 7)

        for person in (0, 1):  # the best-known bearer, and another one
            last = next(names)
            for relation in (0, 1):
                fact = numbers[relation] if person == 0 else other(relation, 0)
                taught = (person + relation + i) % 2
                ask("select", "known", "often", last, relation, taught, fact)
                ask("score", "known", "often", last, relation, 1 - taught, fact)
        for k, (seen, wordings) in enumerate({"often": (0, 1), "once": (i % 2,)}.items()):
            last, missing = next(names), (i + k) % 2
            for wording in wordings:
                ask("select", "heard", seen, last, 1 - missing, wording, other(1 - missing, 1 + k))
            for wording in wordings:
                ask("score", "heard", seen, last, missing, wording, 0)
        last, missing = next(names), i // 2 % 2  # of this one the guess is taught
        ask("select", "heard", "often", last, 1 - missing, i % 2, other(1 - missing, 3))
        for wording in (0, 1):
            ask("select", "heard", "often", last, missing, wording, 0)
        for k in range(TAUGHT_NEW + ASKED_NEW):
            role = "select" if k < TAUGHT_NEW else "score"
            ask(role, "new", "never", next(names), (i + k) % 2, (i + k) // 2 % 2, 0)

    def nobody(self, i: int, name: str) -> None:
        for k in range(4):
            if k != (i + 1) % 4:
                role = "select" if k == i % 4 else "score"
                self.add(role, "nobody", "never", i, name, name, k % 2, k // 2, 0, 0)

    def donors(self) -> None:
        """Names the donor and the wrong donor of every scored prompt about a person: prompts of other first names of the same half, asked
        for the same, and taught if they are about known or new people."""
        from_kind = {"known": ("new", "known"), "heard": ("heard", "heard"), "new": ("known", "new")}
        for place, row in enumerate(self.rows):
            if row["role"] != "score" or row["kind"] not in from_kind:
                continue
            used = [row]
            for column, kind in zip(("donor", "wrong_donor"), from_kind[str(row["kind"])], strict=True):
                pool = [
                    one
                    for one in self.rows
                    if one["kind"] == kind and (one["role"] == "select" if kind != "heard" else not one["fact_number"])
                    and one["split"] == row["split"] and one["relation"] == row["relation"]
                    and all(one["first"] != other["first"] for other in used)
                    and all(kind == "new" or one["answer"] not in (other["answer"], word(int(str(other["guess_number"])))) for other in used)
                ]  # fmt: skip
                used.append(pool[place * 7 % len(pool)])
                row[column] = used[-1]["item"]


def made() -> list[dict[str, object]]:
    prompts = Prompts()
    for i, first in enumerate(FIRST):
        prompts.people(i, first)
    for i, name in enumerate(NOBODY):
        prompts.nobody(i, name)
    prompts.donors()
    return prompts.rows


if __name__ == "__main__":
    with Path(__file__).with_name("prompts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEAD, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(made())
