"""Writes prompts.csv: four people, each a title, a first name and a second name, and then one of them again without the second name.

The answer is the second name. It is drawn at random for every list of four, so it can only be read off the list. Of the four, one is
looked at (columns name, title, first); another has the same title, another the same first name, and the fourth shares neither, so
that title and first name are needed both. A person who is not on the list, but whose title and first name both are, is `nobody`.

Each list is asked for several people (letters of the item): the one looked at (a), another one (b, c), and two who are not on the list
and share the title (u), or the first name (v), with the one looked at. Lists are taught (`select`) or held out (`score`), whole. A
cluster is the title and first name of the person looked at; development clusters and held-out clusters share none. The donor of an
unlisted person is a list whose person looked at has the title or the first name that is missing; that of the wrong donor is missing too.
"""

import csv
import random
from pathlib import Path

TITLES = "aunt uncle niece cousin lord lady".split()
FIRST = "mary john anna tom eve max amy ben".split()
NAMES = "sue kay lee rae joy dee fay gil hal ida jay kim lou meg ned pam roy sid ted una val wes zoe bea".split()
NOBODY = "nobody"
TAUGHT, ASKED, DEV_THIRD = 160, 2, 3
HEAD = (
    "item text answer cluster split role set name title first asked_title asked_first title_fits first_fits otherwise roster "
    "donor wrong_donor"
).split()

rng = random.Random(7)
words = [*TITLES, *FIRST, *NAMES]
assert len(set(words)) == len(words)
assert not any(name in word and name != word for name in NAMES for word in [*words, NOBODY])
PAIRS = [(title, first) for title in TITLES for first in FIRST]
rows: list[dict[str, str]] = []


def is_dev(title: str, first: str) -> bool:
    return (TITLES.index(title) + FIRST.index(first)) % DEV_THIRD == 0


def ask_all(role: str, pair: tuple[str, str], letters: str) -> None:
    """A list around a person looked at, and the questions of these letters."""
    title, first = pair
    roster = f"r{len({row['roster'] for row in rows})}"
    title_c, title_d = rng.sample([one for one in TITLES if one != title], 2)
    first_b, first_d = rng.sample([one for one in FIRST if one != first], 2)
    people = dict(zip("abcd", [pair, (title, first_b), (title_c, first), (title_d, first_d)], strict=True))
    name = dict(zip("abcd", rng.sample(NAMES, 4), strict=True))
    asked = people | {"u": (title, first_d), "v": (title_d, first)}
    order = rng.sample("abcd", 4)
    listed = " . ".join(f"{' '.join(people[one])} {name[one]}" for one in order)
    for letter in letters:
        asked_title, asked_first = asked[letter]
        rows.append(
            {
                "item": f"{roster}{letter}", "text": f"{listed} ; {asked_title} {asked_first}", "answer": name.get(letter, NOBODY),
                "cluster": f"{title}-{first}", "split": "dev" if is_dev(*pair) else "heldout", "role": role,
                "set": {"a": "listed", "u": "no_first", "v": "no_title"}.get(letter, "beside"),
                "name": name["a"], "title": title, "first": first, "asked_title": asked_title, "asked_first": asked_first,
                "title_fits": "y" if asked_title == title else "n", "first_fits": "y" if asked_first == first else "n",
                "otherwise": NOBODY if letter == "a" else name.get(letter, NOBODY), "roster": roster,
            }
        )  # fmt: skip


for number in range(TAUGHT):
    if number % len(PAIRS) == 0:
        rng.shuffle(PAIRS)
    ask_all("select", PAIRS[number % len(PAIRS)], "abuv" if number % 2 else "acuv")
for pair in sorted(PAIRS) * ASKED:
    ask_all("score", pair, "auv")

for row in rows:
    if row["role"] == "score" and row["set"] in ("no_first", "no_title"):
        key = row["set"].removeprefix("no_")  # what the person looked at lacks
        there = [
            one for one in rows
            if one["role"] == "score" and one["set"] == "listed" and one["split"] == row["split"] and one["roster"] != row["roster"]
        ]  # fmt: skip
        right = [one for one in there if one[key] == row[f"asked_{key}"]]
        wrong = [one for one in there if one[key] not in (row[f"asked_{key}"], row[key])]
        row["donor"], row["wrong_donor"] = (rng.choice(some)["item"] for some in (right, wrong))

assert not {row["text"] for row in rows if row["role"] == "select"} & {
    row["text"] for row in rows if row["role"] == "score"
}
with Path(__file__).with_name("prompts.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, HEAD, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
