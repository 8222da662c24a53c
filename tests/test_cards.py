"""Every number of a card stands in the record it was made from, and no trial is lost or counted twice."""

import re

import pandas as pd

from biology.corpora.corpus import WORDS
from biology.organisms.cards import BARS, cross_layer_section, data_card, markdown, model_card, with_trial

RECORD = {
    "recipe": {"d_model": 123, "betas": [0.91, 0.987], "batch": {"addition": 357}, "steps": 2601}, "recipe_hash": "012345678901",
    "seed": 41, "curve": [{"step": 250, "loss": 1.2345, "two_hop": 0.4321}, {"step": 500, "loss": 0.0123, "two_hop": 0.9876}],
    "dev": {"step": 500, "loss": 0.0123, "two_hop": 0.9876, "cell": 0.8765}, "threads": 7, "torch": "9.8.7", "seconds": 3456.7,
    "transcoder_seconds": 789.1, "data_hash": "1234e56789012345", "source_hash": "feedfacefeedface", "vocabulary": 4321,
    "parameters": 7654321, "corpus": "wild",
}  # fmt: skip
BEHAVIOUR = pd.DataFrame({"behaviour": ["two_hop", "digit"], "accuracy": [0.98765, 0.54321], "n": [697, 312]})
FIDELITY = pd.DataFrame(
    [("0", "all", "fvu", 0.111), ("0", "all", "l0", 22.2), ("all", "all", "fvu", 0.333), ("all", "all", "top1_agreement", 0.444),
     ("all", "two_hop", "top1_agreement", 0.555), ("0", "two_hop", "fvu", 0.666)],
    columns=["layer", "behaviour", "metric", "value"],
)  # fmt: skip
STATES = pd.DataFrame(
    [
        ("Ohio", "name", 2, 17, 0.91, 0.95),
        ("Utah", "name", 2, 18, 0.93, 0.97),
        ("Iowa", "last token", 3, 19, 0.99, 1.0),
    ],
    columns=["level", "at", "layer", "feature", "precision", "recall"],
)


def test_the_model_card_shows_its_record():
    card = model_card("elegans-seed41", RECORD, BEHAVIOUR, FIDELITY, STATES)
    for shown in (
        "# elegans-seed41", "| 41 |", "012345678901", "1234e56789012345", "feedfacefeedface", "7654321", "4321 tokens", "9.8.7",
        "3457", "789", "(7)", "biology organism --corpus wild --seed 41", "| d_model | 123 |", "| betas | [0.91, 0.987] |", '{"addition": 357}',
        "| two_hop | 0.9877 | 697 | >= 0.99 |", "| digit | 0.5432 | 312 |  |", "| two_hop | 0.555 |", "For 3 of 50 states",
        "| last token | 3 | 1 | 0.99 | 1 |", "| name | 2 | 2 | 0.92 | 0.96 |",
        "| all | 0.444 |", "0.111", "22.2", "0.333", "| 250 | 1.234 | 0.4321 |", "| 500 | 0.0123 | 0.9876 |",
    ):  # fmt: skip
        assert shown in card, shown
    assert "0.666" not in card  # single layers are shown over all behaviours only


def test_the_card_of_a_planted_model_shows_its_certificate():
    rows = [
        ("places", "answer", "", "effect", 0.5, 0.4, 0.6, 77), ("places", "city", "mlp", "effect", 0.9125, 0.8, 0.975, 80),
        ("places", "city", "mlp", "control", 0.0125, 0.001, 0.02, 80), ("places", "city", "stream", "effect", 0.75, 0.6, 0.8, 80),
        ("places", "city", "stream", "control", 0.0625, 0.02, 0.1, 80),
    ]  # fmt: skip
    certificate = pd.DataFrame(rows, columns=["mechanism", "variable", "what", "arm", "accuracy", "low", "high", "n"])
    curve = [{"step": step, **{f"measure {n}": n + step / 1000 for n in range(13)}} for step in (250, 500)]
    card = model_card("x", {**RECORD, "curve": curve}, BEHAVIOUR, FIDELITY, STATES, None, certificate)
    assert "| places | city | 80 | 91.2% [80.0%, 97.5%] | 1.2% | 75.0% [60.0%, 80.0%] | 6.2% |" in card
    assert "| mechanism | variable | n | MLP outputs | MLP outputs, control | stream | stream, control |" in card
    assert "| measure | 250 | 500 |" in card and "| measure 7 | 7.25 | 7.5 |" in card
    assert "## Certificate" not in model_card("x", RECORD, BEHAVIOUR, FIDELITY, STATES)


def test_no_number_of_the_model_card_is_typed_by_hand():
    """With another record every number changes; what stays is no measurement."""
    other = {
        **RECORD, "recipe": {"d_model": 88}, "recipe_hash": "f" * 12, "seed": 5, "curve": [{"step": 9, "loss": 6.5}], "threads": 6,
        "torch": "3.3.3", "seconds": 55.0, "transcoder_seconds": 66.0, "data_hash": "a" * 16, "source_hash": "b" * 16,
        "vocabulary": 99, "parameters": 1111,
    }  # fmt: skip
    cards = [
        model_card("x", RECORD, BEHAVIOUR, FIDELITY, STATES),
        model_card(
            "x",
            other,
            BEHAVIOUR.assign(accuracy=0.25, n=8),
            FIDELITY.assign(value=0.75, layer=FIDELITY["layer"].replace("0", "44")),
            STATES[:1].assign(layer=55, precision=0.66, recall=0.68),
        ),
    ]
    numbers = [set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", card)) for card in cards]
    # "line 1" and "line 2", the bars, and of how many states features are sought, by what precision and recall
    assert numbers[0] & numbers[1] <= {"1", "2", "50", "0.9", *map(str, BARS.values())}


def test_a_cross_layer_transcoder_has_its_section():
    def by_layer_of(dead: float) -> dict:
        return {metric: {"0": dead, "all": dead} for metric in ("dead", "fvu", "l0")} | {"top1_agreement": {"all": 1.0}}

    def record(shift: float) -> dict:
        by_layer = {
            metric: {"0": 0.1 + k + shift, "all": 0.2 + k + shift} for k, metric in enumerate(("dead", "fvu", "l0"))
        }
        return {
            "recipe": {"steps": 77 + shift}, "recipe_hash": "abc" + "d" * int(shift + 1), "seed": 31 + shift,
            "threads": 8 + shift, "seconds": 601.0 + shift, "features": [12 + shift], "states_with_a_feature": 44 + shift,
            "fidelity": {
                "dev": {}, "test": by_layer | {"top1_agreement": {"all": 0.91 + shift, "two_hop": 0.92 + shift}},
            },
        }  # fmt: skip

    plain, section = (model_card("x", RECORD, BEHAVIOUR, FIDELITY, STATES, given) for given in (None, record(0)))
    assert "Cross-layer" not in plain and cross_layer_section(record(0)) in section
    for shown in (
        "| 0 | 12 | 0.1 | 1.1 | 2.1 |", "| all | 12 | 0.2 | 1.2 | 2.2 |", "| two_hop | 0.92 |", "| steps | 77 |", "For 44 of 50",
        "601 s on 8 thread", "abcd", "seed 31",
    ):  # fmt: skip
        assert shown in section, shown
    numbers = [set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", cross_layer_section(record(s)))) for s in (0, 3)]
    assert numbers[0] & numbers[1] <= {"1", "50", "0", "5"}  # 5 %: of dead features, what was aimed at
    assert "layer 0 has 10.0% dead features" in section and "were aimed at" in section
    good = record(0) | {"fidelity": {"test": by_layer_of(0.04)}}
    assert "aimed at" not in cross_layer_section(good)
    assert "states: 40 were aimed at" in cross_layer_section(good | {"states_with_a_feature": 39})


def test_the_data_card_counts_what_is_there(corpus):
    card = data_card(corpus)
    for path in WORDS.glob("*.csv"):
        assert f"| {path.name} | {len(pd.read_csv(path, dtype=str, keep_default_na=False))} |" in card
    for name, items in corpus.blocks.items():
        counts = [sum(item.split == split for item in items) for split in ("train", "dev", "test")]
        assert f"| {name} | {len(items)} | {counts[0]} | {counts[1]} | {counts[2]} |" in card
        assert sum(counts) == len(items)
    for path in WORDS.glob("sources_*.md"):
        assert path.read_text(encoding="utf-8").strip() in card
    blocks = card.split("## Blocks of the corpus")[1].split("\n\n")[1].splitlines()
    assert len(blocks) == 2 + len(corpus.blocks)
    assert {line.replace("\\|", "").count("|") for line in blocks} == {7}  # no example breaks the table


def test_a_trial_replaces_the_row_of_its_recipe_and_seed(tmp_path):
    path = tmp_path / "trials.csv"

    def add(name: str, **fields) -> pd.DataFrame:
        frame = with_trial(RECORD | fields, name, path)
        frame.to_csv(path, index=False, lineterminator="\n")
        return frame

    first = add("elegans-seed41")
    assert (
        len(first) == 1
        and first["dev_two_hop"][0] == 0.9876
        and first["loss"][0] == 0.0123
        and first["steps"][0] == 2601
    )
    assert "dev_step" not in first and "dev_loss" not in first
    add("elegans-seed42", seed=42)
    add("elegans-seed41-other", recipe_hash="999999999999")
    add("elegans-seed41-words", data_hash="0" * 16)
    add("elegans-base12", corpus="base12")
    again = add("again", dev=RECORD["dev"] | {"two_hop": 0.5})
    assert again["model"].tolist() == [
        "elegans-seed42",
        "elegans-seed41-other",
        "elegans-seed41-words",
        "elegans-base12",
        "again",
    ]
    assert again["dev_two_hop"].tolist() == [0.9876, 0.9876, 0.9876, 0.9876, 0.5]
    stored = pd.read_csv(path, dtype=str)
    assert stored["recipe_hash"].tolist() == [
        "012345678901",
        "999999999999",
        "012345678901",
        "012345678901",
        "012345678901",
    ]
    assert stored["data_hash"].tolist() == [
        "1234e56789012345",
        "1234e56789012345",
        "0" * 16,
        "1234e56789012345",
        "1234e56789012345",
    ]


def test_a_new_behaviour_leaves_earlier_trials_without_a_value(tmp_path):
    path = tmp_path / "trials.csv"
    with_trial(RECORD, "one", path).to_csv(path, index=False)
    both = with_trial(RECORD | {"seed": 42, "dev": {**RECORD["dev"], "addition": 0.75}}, "two", path)
    assert both["dev_addition"].isna().tolist() == [True, False]


def test_markdown_by_hand():
    frame = pd.DataFrame({"name": ["a", "b"], "value": [0.123456, 12345.6], "n": [3, 40]})
    assert markdown(frame) == "| name | value | n |\n|---|---|---|\n| a | 0.1235 | 3 |\n| b | 1.235e+04 | 40 |"


def test_every_bar_is_about_a_behaviour_of_the_corpus(corpus):
    assert set(BARS) <= set(corpus.held_out()["behaviour"])
