"""Files of JSON: the bytes of Python's own encoder, whatever is written."""

import json
import math
import random

import pytest

from biology.artefacts import indented

AWKWARD = [None, True, False, 0, -3, 10**20, 0.1, 1e-20, -0.0, "", "word", '加 “x”\n\t"} ,{', "},\n   {", "\u2028"]


def anything(draw: random.Random, depth: int = 0):
    kind = draw.randrange(8 if depth < 4 else 1)
    if kind < 3:
        return draw.choice(AWKWARD)
    if kind < 5:
        return [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 5:  # what graphs are made of
        return [
            {f"{n}}}, {{": draw.choice(AWKWARD) for n in range(draw.randrange(3))} for _ in range(draw.randrange(4))
        ]
    keys = [f"k{n}\n" for n in range(draw.randrange(4))] if kind == 6 else draw.sample([1, 2.5, None, True, "q"], 2)
    return {key: anything(draw, depth + 1) for key in keys} if kind == 6 else tuple(keys)


def test_it_is_what_python_writes_with_an_indent_of_one():
    draw = random.Random(0)
    for _ in range(3000):
        data = anything(draw)
        assert indented(data) == json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1)
    for keys in ({1: "a", None: ["b"]}, {"deeper": {2.5: {"c": []}}}):
        assert indented(keys) == json.dumps(keys, indent=1)


@pytest.mark.parametrize(
    "data", [math.nan, [math.inf], {"links": [{"weight": -math.inf}]}], ids=["value", "list", "records"]
)
def test_what_json_cannot_say_is_refused(data):
    with pytest.raises(ValueError, match="Out of range"):
        indented(data)
