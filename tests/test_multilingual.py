"""Where elegans-wild keeps operation, operand and language of a development cell, without any transcoder.

The case edits features at the last token. That this is the place follows from exchanging residual streams there, and from
the word's own token doing nothing once the first layer has read it (experiments/multilingual/README.md).
"""

import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch

from biology.cases.case import load_case
from biology.figures.case_figures import draw, own_figures
from biology.interventions.residual_exchange import Exchanges, exchange_residuals
from biology.models.model import Model, answer_token, encode, load_model
from biology.tables import Tables, table

ROOT = Path(__file__).parents[1]
LANGUAGES = ("en", "fr", "zh", "de", "es", "ru")


@pytest.fixture(scope="module")
def cells() -> dict[str, dict[str, str]]:
    """Development cells by name: text, answer and factors."""
    items = [item for item in load_case(ROOT, "multilingual").items if item.split == "dev"]
    return {one.item: {"text": one.text, "answer": one.answer, "role": one.role, **one.factors} for one in items}


@pytest.fixture(scope="module")
def elegans() -> Model:
    return load_model(ROOT / "data/models/elegans-wild", name="elegans-wild")


def word_position(model: Model, cell: dict[str, str]) -> int:
    return len(encode(model, cell["text"][: cell["text"].index(cell["word"]) + len(cell["word"])])) - 1


def predicted(model: Model, cells: dict[str, dict[str, str]], factor: str, layer: int, at: str) -> float:
    """How often the stream of the donor that enters `layer` gives the answer of the predicted cell."""
    names, places = list(cells), {name: place for place, name in enumerate(cells)}
    # of English prompts an English donor of the answer itself would do
    bases = [
        name
        for name in names
        if cells[name]["role"] == "score" and (factor == "language" or cells[name]["english"] == "no")
    ]
    donors = [cells[name][f"{factor}_donor"] for name in bases]
    spots = [[word_position(model, cells[name]) if at == "word" else -1 for name in side] for side in (bases, donors)]
    rows = torch.arange(len(bases))
    exchanges = Exchanges(rows, torch.full_like(rows, layer), torch.tensor(spots[0]), torch.tensor(spots[1]))
    prompt, donor = (torch.tensor([places[name] for name in side]) for side in (bases, donors))
    ids = [encode(model, cell["text"]) for cell in cells.values()]
    top = exchange_residuals(model, ids, prompt, donor, exchanges)[:, 0].argmax(-1).tolist()
    wanted = [answer_token(model, cells[name]["text"], cells[name][f"expected_{factor}"]) for name in bases]
    return sum(one == other for one, other in zip(top, wanted, strict=True)) / len(bases)


def test_the_operand_is_at_the_last_token_as_soon_as_the_first_layer_has_read_it(elegans, cells):
    """From English donors, and the answer comes in the language of the prompt: what is exchanged speaks no language yet."""
    assert predicted(elegans, cells, "operand", 1, "last") > 0.9
    assert predicted(elegans, cells, "operand", 0, "last") < 0.05
    assert (
        predicted(elegans, cells, "operand", 3, "last") < 0.05
    )  # by then the answer is there, in the donor's language


def test_the_operands_own_token_matters_to_the_first_layer_only(elegans, cells):
    assert predicted(elegans, cells, "operand", 0, "word") > 0.9
    assert predicted(elegans, cells, "operand", 1, "word") < 0.05


def test_the_operation_joins_it_in_the_first_two_layers_and_the_language_after_them(elegans, cells):
    assert max(predicted(elegans, cells, "operation", layer, "last") for layer in (1, 2)) > 0.4
    assert predicted(elegans, cells, "operation", 4, "last") < 0.1
    assert predicted(elegans, cells, "language", 1, "last") < 0.1
    assert predicted(elegans, cells, "language", 3, "last") > 0.9


# ------------------------------------------------------------------------------------------------------ figures
def planted(says: dict[str, float]) -> Tables:
    """Evidence in which every edit gives the predicted cell at a planted rate, and controls never do."""
    prompts, evidence = [], []
    for number, (scale, relation, language) in enumerate(
        itertools.product(("a", "b"), ("opposite", "synonym", "category"), LANGUAGES)
    ):
        name = f"{relation}-{scale}-{language}"
        donor = f"opposite-{scale}-fr" if relation != "opposite" or language != "fr" else f"synonym-{scale}-en"
        prompts.append(
            {
                "item": name, "text": name, "answer": "x", "answer_token": number, "top1": "x", "probability": 1.0,
                "correct": True, "cluster": scale, "split": "heldout", "role": "score", "relation": relation,
                "language": language, "concept": scale, "operation_donor": donor, "operand_donor": donor,
                "language_donor": donor,
            }
        )  # fmt: skip
        for edit, rate in says.items():
            arms = {"effect": rate, "match": 0.0}
            evidence += [
                (name, scale, f"{edit}_swap", arm, 2.0, f"level_top1:expected_{edit}", v) for arm, v in arms.items()
            ]
        for dose, arm in itertools.product((1.0, 2.0, 3.0), ("effect", "match")):
            new = 0.5 + 0.2 * (dose - 2.5) if arm == "effect" else 0.1
            for outcome, value in (("level_probability:expected_operation", new), ("answer_probability", 1 - new)):
                evidence.append((name, scale, "operation_swap/dose", arm, dose, outcome, value))
        for layer, arm in itertools.product(range(3), ("effect", "shuffle")):
            evidence.append(
                (name, scale, "overlap", arm, 1.0, f"overlap:{layer}", 0.3 * (arm == "effect") * (layer == 1))
            )
        for other, arm in itertools.product(LANGUAGES, ("effect", "match")):
            value = 1.5 if (other, arm) == ("zh", "effect") else 0.0
            evidence.append((name, scale, "default_language", arm, 1.0, f"default_written:{other}", value))
    columns = ["item", "cluster", "experiment", "arm", "strength", "outcome", "value"]
    rows = pd.DataFrame(evidence, columns=columns).assign(split="heldout", draw=0)
    return {"prompts": table("prompts", prompts), "evidence": table("evidence", rows.to_dict("records"))}


@pytest.mark.parametrize(
    ("figure", "title"),
    [
        ("edit_matrix", "operation 75% (random features 0%), operand 25% (random features 0%), language 50%"),
        ("crossover_curves", "takes over at M from 2.5 to 2.5, in 6 of 6 languages"),
        ("overlap_by_layer", "in layer 1: 0.30"),
        ("default_language", "promote most is zh, by 1.50 standard deviations (random features 0.00)"),
    ],
)
def test_the_titles_of_its_figures_state_what_the_tables_hold(figure, title):
    case = load_case(ROOT, "multilingual")
    tables = planted({"operation": 0.75, "operand": 0.25, "language": 0.5})
    assert figure in case.figures and figure in own_figures(case)
    drawn = draw(figure, tables, case)
    assert drawn["svg"].startswith(b"<?xml") and title in drawn["svg"].decode()
    assert draw(figure, tables, case) == drawn


def test_the_style_file_restyles_every_figure_of_the_case(restyled):
    case = load_case(ROOT, "multilingual")
    tables = planted({"operation": 0.75, "operand": 0.25, "language": 0.5})
    for figure in own_figures(case):
        restyled(draw(figure, tables, case, forms=("svg",)))
