"""Where a model that was taught expressions keeps the sum inside, on development prompts and without any transcoder.

The case edits features at the bracket that closes the sum (experiments/addition/README.md). That the sum is there, in the
form in which a plain sum is kept at its equals sign, follows from exchanging residual streams.
"""

from pathlib import Path

import pytest
import torch

from biology.corpora.twins import prompts_of
from biology.interventions.residual_exchange import Exchanges, exchange_residuals
from biology.models.model import Model, answer_token, encode, load_model

ROOT = Path(__file__).parents[1]
CLOSING, EQUALS = -4, -1  # calc: ( 4 + 5 ) * 3 =


@pytest.fixture(scope="module")
def brackets() -> Model:
    return load_model(ROOT / "data/models/elegans-brackets", name="elegans-brackets")


def said(model: Model, layer: int, *, donor: str, pos: int, plain: bool = False) -> float:
    """How often the stream of a donor that enters `layer` gives the donor's answer; `plain`: the donor's sum without brackets."""
    asked = prompts_of("addition", "brackets").set_index("item", drop=False)
    scored = (asked["set"] == "brackets") & (asked["role"] == "score")
    bases = asked[scored & (asked["split"] == "dev")]
    donors = asked.loc[bases[donor]]
    read = asked.loc[[f"calc-{a}-{b}" for a, b in zip(donors["a"], donors["b"], strict=True)]] if plain else donors
    ids = [encode(model, text) for text in (*bases["text"], *read["text"])]
    rows = torch.arange(len(bases))
    at = torch.full_like(rows, pos)
    exchanges = Exchanges(rows, torch.full_like(rows, layer), at, torch.full_like(rows, EQUALS) if plain else at)
    top = exchange_residuals(model, ids, rows, rows + len(rows), exchanges)[:, 0].argmax(-1).tolist()
    wanted = [answer_token(model, text, answer) for text, answer in zip(bases["text"], donors["answer"], strict=True)]
    return sum(one == other for one, other in zip(top, wanted, strict=True)) / len(rows)


def test_the_sum_inside_is_kept_where_the_bracket_closes(brackets):
    assert said(brackets, 1, donor="donor", pos=CLOSING) > 0.9
    assert said(brackets, 3, donor="donor", pos=CLOSING) < 0.5  # from there attention begins to fetch it
    assert said(brackets, 4, donor="donor", pos=EQUALS) < 0.2  # it reaches the equals sign in the last layer


def test_the_state_of_a_plain_sum_serves_inside_a_bracket(brackets):
    """And what is then done with it is what the expression asks: no plain sum is said."""
    assert said(brackets, 1, donor="donor", pos=CLOSING, plain=True) > 0.9
    assert said(brackets, 1, donor="wrong_donor", pos=CLOSING, plain=True) > 0.9  # whichever sum it is
    assert said(brackets, 1, donor="donor", pos=EQUALS, plain=True) < 0.05


def test_the_kind_of_expression_is_at_the_equals_sign_after_two_layers(brackets):
    assert said(brackets, 2, donor="kind_donor", pos=EQUALS) > 0.9
    assert said(brackets, 1, donor="kind_donor", pos=EQUALS) < 0.6
    assert said(brackets, 2, donor="kind_donor", pos=CLOSING) < 0.05
