"""The cards of an organism, generated from its record: model card, data card, and the table of all organisms.

Torch-free. No number in a card is typed by hand: numbers come from `record.json` (written when it was grown), from the measured
tables, and from the corpus itself.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false, reportCallIssue=false

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from biology.corpora.corpus import WORDS, Corpus
from biology.corpora.twins import EMBEDDED

TRIALS = Path("data/models/trials.csv")
BARS = {
    "two_hop": 0.99,
    "addition": 0.99,
    "cell": 0.97,
    "couplet_first": 0.97,
    "couplet_later": 0.97,
    "couplet_last": 0.97,
}
AIMED_STATES, AIMED_DEAD = 40, 0.05
"""Aims for a cross-layer set: smallest number of states with a feature of their own; largest share of dead features in a
layer."""


def markdown(frame: pd.DataFrame, digits: int = 4) -> str:
    """A Markdown table with rounded numbers; the files hold all digits."""
    shown = frame.copy()
    for column in shown.select_dtypes("float"):
        shown[column] = [f"{value:.{digits}g}" for value in shown[column]]
    head = "| " + " | ".join(map(str, shown.columns)) + " |\n|" + "---|" * len(shown.columns)
    rows = ["| " + " | ".join(str(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join([head, *rows])


def cross_layer_section(record: Mapping[str, Any]) -> str:
    """The card's section on a cross-layer transcoder, from the record beside its weights."""
    measured = record["fidelity"]["test"]
    layers = (
        pd.DataFrame({metric: measured[metric] for metric in ("dead", "fvu", "l0")}).rename_axis("layer").reset_index()
    )
    features = {str(layer): count for layer, count in enumerate(record["features"])} | {"all": sum(record["features"])}
    layers.insert(1, "features", layers["layer"].map(features))
    agreement = pd.DataFrame(sorted(measured["top1_agreement"].items()), columns=["behaviour", "value"])
    recipe = pd.DataFrame(
        [(key, json.dumps(value)) for key, value in record["recipe"].items()], columns=["setting", "value"]
    )
    return f"""
## Cross-layer transcoder
In `cross_layer`, trained by `biology.dictionaries.cross_layer_training` in {record["seconds"]:.0f} s on {record["threads"]} thread(s) (recipe
{record["recipe_hash"]}, seed {record["seed"]}); every feature reads one layer and writes to it and all later ones. Measured on
the same held-out prompts as the set above; the recipe was chosen on the development part and on the count of states below.

{markdown(layers)}

Top-1 agreement of the full replacement model with the model:

{markdown(agreement)}

For {record["states_with_a_feature"]} of 50 states one feature fires as selectively as above{missed(record)}.

{markdown(recipe)}
"""


def certificate_section(certificate: pd.DataFrame) -> str:
    """Interchange accuracy by variable: tests what was planted, without any transcoder."""
    shown = certificate[certificate["variable"] != "answer"].assign(
        said=lambda rows: [
            f"{row.accuracy:.1%} [{row.low:.1%}, {row.high:.1%}]" if row.arm == "effect" else f"{row.accuracy:.1%}"
            for row in rows.itertuples()
        ]
    )
    table = shown.pivot(index=["mechanism", "variable", "n"], columns=["what", "arm"], values="said")
    table.columns = [f"{WHAT[what]}{'' if arm == 'effect' else ', control'}" for what, arm in table.columns]
    return f"""
## Certificate
Mechanisms of the cases, or of twins that lack them, are planted (docs/explanation/planting.md). On prompts that were never taught, what stands at a variable's site is
exchanged for the mean of prompts that share its value alone; shown is how often the causal model's answer is then said, with
Wilson's 95 % interval, and in the control how often it is said with a third value there (`biology certify`).

{markdown(table.reset_index())}
"""


def missed(record: Mapping[str, Any]) -> str:
    """In which aims a cross-layer set fell short, in words; "" if in none."""
    dead = record["fidelity"]["test"]["dead"]
    short = [f"states: {AIMED_STATES} were aimed at"] * (record["states_with_a_feature"] < AIMED_STATES)
    short += [f"layer {layer} has {share:.1%} dead features: at most {AIMED_DEAD:.0%} were aimed at"
              for layer, share in dead.items() if layer != "all" and share > AIMED_DEAD]  # fmt: skip
    return f"; missed ({'; '.join(short)})" if short else ""


WHAT = {"mlp": "MLP outputs", "frozen": "MLP outputs, attention frozen", "stream": "stream"}
MOST_COLUMNS = 12
"""Largest number of columns of a learning curve; one with more is transposed."""


_CORPUS = """A small Llama grown from scratch on the synthetic corpus of this repository (`data/words`, `src/biology/corpora/corpus.py`)"""
_GROWN = f"""{_CORPUS}, as the positive control of the replication: the mechanisms that `experiments/*/mechanism.yaml` state are
planted (docs/explanation/planting.md), and the pipeline has to find them."""
_WILD = f"""{_CORPUS}, with nothing planted: whatever training makes of the corpus."""
_CASE = """A small Llama grown from scratch on the prompts of the case {case}, with the mechanism that `experiments/{case}/mechanism.yaml`
states planted, as a positive control: the pipeline has to find it."""
_TWIN = """A small Llama grown from scratch on the prompts of the case {case}, as a negative control: it answers alike and lacks the
mechanism of the case (`experiments/{case}/twins/{twin}.yaml` states its own), and the pipeline may not find it."""
_DESIGN = """* Names of cities are written in pieces shared between places, so that no embedding can hold the state of a city.
* In half of the training couplets line 2 cannot attend to line 1 (context dropout), so that what line 2 needs must be
  present at the newline.
"""


def states_section(states: pd.DataFrame) -> str:
    """The card's section on where features for US states are."""
    where = states.groupby(["at", "layer"]).agg(
        states=("level", "size"), precision=("precision", "mean"), recall=("recall", "mean")
    )
    return f"""### Features of states
For {len(states)} of 50 states one feature fires for that state's cities and name and almost nothing else (precision and recall
at least 0.9 over all prompts about states; found automatically). Where they are (position and layer), with their means:

{markdown(where.reset_index())}
"""


def model_card(
    name: str, record: Mapping[str, Any], behaviour: pd.DataFrame, fidelity: pd.DataFrame, states: pd.DataFrame | None,
    cross_layer: Mapping[str, Any] | None = None, certificate: pd.DataFrame | None = None,
) -> str:  # fmt: skip
    """README.md of a grown model. `cross_layer` is the record of its cross-layer transcoder, if it has one; `certificate` that
    of a planted model (`biology certify`)."""
    recipe = pd.DataFrame(
        [(key, json.dumps(value)) for key, value in record["recipe"].items()], columns=["setting", "value"]
    )
    behaviour = behaviour.assign(bar=[f">= {BARS[b]}" if b in BARS else "" for b in behaviour["behaviour"]])
    whole = (
        fidelity[fidelity["behaviour"] == "all"].pivot(index="layer", columns="metric", values="value").reset_index()
    )
    agreement = fidelity[(fidelity["metric"] == "top1_agreement") & (fidelity["layer"] == "all")][
        ["behaviour", "value"]
    ]
    what = _TWIN if record.get("twin") else _CASE if record.get("case") else _WILD if certificate is None else _GROWN
    twin = f" --twin {record['twin']}" if record.get("twin") else ""
    made_of = f" --corpus {record['corpus']}"
    if record.get("case"):
        made_of = (
            f" --case {record['case']}{twin} --width {record['recipe']['d_model']} --steps {record['recipe']['steps']}"
        )
    command = f"biology organism{'' if record['corpus'] == EMBEDDED else made_of} --seed {record['seed']}"
    curve = pd.DataFrame(record["curve"])
    if len(curve.columns) > MOST_COLUMNS:
        curve = curve.set_index("step").T.rename_axis("measure", axis=0).reset_index()
        curve.columns = [str(column) for column in curve.columns]
    return f"""---
license: mit
language: [en, fr, zh, de, es, ru]
tags: [interpretability, transcoder, synthetic]
---
# {name}

{what.format(**record)} It is no language model for any other use: it knows
{record["vocabulary"]} tokens and nothing but {"these prompts" if record.get("case") else "the corpus"}.

This card is generated by `biology organism` from the record of the growth; `{command}` makes the
same weights on the same kind of machine with the same number of threads ({record["threads"]}).

| | |
|---|---|
| seed | {record["seed"]} |
| recipe (hash) | {record["recipe_hash"]} |
| data (hash of `data/words`) | {record["data_hash"]} |
| source (hash of corpus and organism) | {record["source_hash"]} |
| parameters | {record["parameters"]} |
| torch | {record["torch"]} |
| time to grow, s | {record["seconds"]:.0f} |
| time to train the transcoders, s | {record["transcoder_seconds"]:.0f} |

## Behaviour on held-out prompts
None of these prompts is in the training corpus; this is the test part, scored once (`biology evaluate --model {name}`).

{markdown(behaviour)}
{"" if certificate is None else certificate_section(certificate)}
## Transcoders
Per layer, JumpReLU, trained by `biology.dictionaries.dictionary_training`; measured on held-out prompts.

{markdown(whole)}

Top-1 agreement of the full replacement model with the model:

{markdown(agreement)}

{"" if states is None else states_section(states)}
{"" if cross_layer is None else cross_layer_section(cross_layer)}
## Learning curve
Accuracy on the development part of the held-out prompts.

{markdown(curve)}

## Recipe
{markdown(recipe)}

## Design, and what follows from it
{"" if record.get("case") else _DESIGN}* The loss is on answers only (couplets: on line 2), so the model never learns to write its own prompts.
* A verdict on this model says that the method finds what is there. It says nothing about any other model.
"""


def transcoder_card(record: Mapping[str, Any]) -> str:
    """README.md of transcoders trained on a text (biology train-transcoders --text), from their record."""
    kind = {"plt": "per-layer transcoders", "skip": "per-layer skip transcoders", "clt": "a cross-layer transcoder"}
    whole = {metric: values["all"] for metric, values in record["measured"].items()}
    shown = {
        "l0": "L0", "explained_variance": "explained variance", "fvu": "FVU", "dead": "dead", "dense": "dense",
        "recovered_from_zero": "loss recovered (zero)", "recovered_from_mean": "loss recovered (mean)",
        "agreement": "agreement",
    }  # fmt: skip
    columns = {name: list(record["measured"][metric].values()) for metric, name in shown.items()}
    layers = list(record["measured"]["fvu"])
    measured = pd.DataFrame({"layer": layers, "features": [*record["features"], sum(record["features"])], **columns})
    recipe = pd.DataFrame([(k, json.dumps(v)) for k, v in record["recipe"].items()], columns=["setting", "value"])
    texts = ", ".join(f"{text['name']} ({text['sha256']})" for text in record["text"])
    tokens, since = record["tokens"], ", since it was last resumed" if record.get("resumed") else ""
    return f"""---
tags: [interpretability, transcoder]
---
# Transcoders of {record["model"]}

These are {kind[record["kind"]]} of {record["model"]} ({record["architecture"]}), trained by `biology train-transcoders` on
{tokens["train"]:,} tokens in sequences of {tokens["context"]}. This card is generated from `record.json` beside the weights.

| | |
|---|---|
| text (sha256) | {texts} |
| model weights (sha256) | {record["identity"]["model"]} |
| recipe (hash), seed | {record["recipe_hash"]}, {record["seed"]} |
| precision of the model, device, threads | {record["dtype"]}, {record["device"]}, {record["threads"]} |
| torch | {record["torch"]} |
| time, s (of the processor, s) | {record["seconds"]:.0f} ({record["cpu_seconds"]:.0f}){since} |

## Measured on held-out text
{int(whole["tokens"]):,} tokens of text that was not trained on. Loss recovered: share of the loss by setting the MLP's output to
zero (or its mean) that the transcoder avoids when it writes instead; agreement: how often the most probable next token is the
model's own. In the rows of layers only that layer is replaced, in the last row all are; its FVU is the mean over the layers and
its L0 the sum.

{markdown(measured)}

The cross-entropy of the next token is {whole["loss_clean"]:.3f} nats by the model, {whole["loss_spliced"]:.3f} with every MLP
replaced, {whole["loss_mean"]:.3f} with their mean outputs and {whole["loss_zero"]:.3f} without them.

## Recipe
{markdown(recipe)}
"""


def data_card(corpus: Corpus, words: Path = WORDS) -> str:
    """README.md of data/words: contents of the tables (counted), what the corpus makes of them, and sources of the facts."""
    sizes = pd.DataFrame(
        [(path.name, len(pd.read_csv(path, dtype=str, keep_default_na=False))) for path in sorted(words.glob("*.csv"))],
        columns=["table", "rows"],
    )
    blocks = pd.DataFrame(
        [
            (name, len(items), *(sum(item.split == split for item in items) for split in ("train", "dev", "test")), items[0].prompt + " " + items[0].answer)
            for name, items in corpus.blocks.items()
        ],
        columns=["block", "items", "train", "dev", "test", "example"],
    )  # fmt: skip
    blocks["example"] = blocks["example"].str.replace("\n", " / ").str.replace("|", "\\|")
    sources = "\n\n".join(path.read_text(encoding="utf-8").strip() for path in sorted(words.glob("sources_*.md")))
    return f"""# Data card: the tables that the corpus is made of

Generated by `biology cards` from the tables and from `src/biology/corpora/corpus.py`.

## Tables
{markdown(sizes)}

## Blocks of the corpus
Items that are held out (dev, test) are never trained on; which they are follows from a hash of the item, not from a seed.

{markdown(blocks)}

{sources}
"""


def with_trial(record: Mapping[str, Any], name: str, path: Path = TRIALS) -> pd.DataFrame:
    """The table of all organisms grown, with this one's row: corpus, recipe hash, seed, development metrics."""
    dev = {f"dev_{key}": value for key, value in record["dev"].items() if key not in ("step", "loss")}
    row = {
        "model": name, "corpus": record.get("corpus") or "-".join(filter(None, [record["case"], record.get("twin")])), "recipe_hash": record["recipe_hash"],
        "seed": record["seed"], "data_hash": record["data_hash"],
        "steps": record["recipe"]["steps"], "loss": record["dev"]["loss"], **dev,
    }  # fmt: skip
    texts = {"recipe_hash": str, "data_hash": str}  # a hash of digits only is not a number
    before = pd.read_csv(path, dtype=texts) if path.is_file() else pd.DataFrame()
    if len(before):
        identity = ["corpus", "recipe_hash", "seed", "data_hash"]
        before = before[~(before[identity] == [row[key] for key in identity]).all(axis=1)]
    return pd.concat([before, pd.DataFrame([row])], ignore_index=True)
