"""Fidelity is 1 for a perfect stand-in and 0 for a constant one, in between by definition; behaviour counts answers."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import random_transcoders
from safetensors.torch import load_file

from biology.cases.case import Case
from biology.cases.case_file import Paper, Prompt
from biology.cases.items import Item
from biology.models.model import answer_token, capture, encode, load_model, run
from biology.records import InputError, InputWarning
from biology.supernodes import behaviour
from biology.supernodes.behaviour import evaluate, fidelity, prompts_table, selective_features
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet, reconstruct
from biology.transcoders.transcoder_set import encode as activations_of

PROMPTS = ["w1 w2 w3", "w4 w5 w6", "w7 w8", "w9 w10 w11 w12", "w13 w14 w15", "w16 w17"]
FRAME = pd.DataFrame(
    {
        "prompt": PROMPTS, "answer": [f"w{40 + i}" for i in range(6)], "behaviour": ["a", "a", "b", "b", "b", "a"],
        "split": "test",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def rectifying(tiny, tmp_path_factory):
    """A GPT-2 whose MLPs are ReLU layers, and the transcoders that are those MLPs."""
    folder = tmp_path_factory.mktemp("rectifying") / "model"
    shutil.copytree(tiny("gpt2"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    model, weights = load_model(folder), load_file(folder / "model.safetensors")
    layers = []
    for layer in range(model.n_layers):
        inner, outer = (f"transformer.h.{layer}.mlp.{name}" for name in ("c_fc", "c_proj"))
        layers.append(
            Transcoder(
                weights[f"{inner}.weight"].T.contiguous(), weights[f"{inner}.bias"], weights[f"{outer}.weight"][:, None],
                weights[f"{outer}.bias"],
            )
        )  # fmt: skip
    return model, TranscoderSet("per_layer", "relu", tuple(layers), "mlp.hook_in", "hook_mlp_out")


def values(table: pd.DataFrame, metric: str, behaviour: str = "all") -> dict[str, float]:
    chosen = table[(table["metric"] == metric) & (table["behaviour"] == behaviour)]
    return dict(zip(chosen["layer"], chosen["value"], strict=True))


def seen_of(model, transcoders, prompt):
    return capture(model, encode(model, prompt), read_hook=transcoders.read_hook, write_hook=transcoders.write_hook)


def mean_outputs(model, transcoders):
    """Per layer the mean MLP output over all positions but the first of each prompt."""
    written = [
        [seen_of(model, transcoders, prompt).write[layer][0, 1:] for prompt in PROMPTS]
        for layer in range(model.n_layers)
    ]
    return [torch.cat(rows).mean(0) for rows in written]


def test_a_perfect_replacement_is_perfect(rectifying):
    model, transcoders = rectifying
    table = fidelity(model, transcoders, FRAME)
    for name in ("all", "a", "b"):
        assert values(table, "fvu", name) == pytest.approx(dict.fromkeys(("0", "1", "2", "all"), 0.0), abs=1e-6)
        assert values(table, "top1_agreement", name) == {"all": 1.0}
        assert values(table, "loss_recovered", name)["all"] == pytest.approx(1.0, abs=1e-3)


def test_a_constant_replacement_recovers_nothing(rectifying):
    """Transcoders that always write the mean output: all variance is left, no loss recovered, every feature dead."""
    model, perfect = rectifying
    layers = [
        replace(layer, b_enc=torch.full_like(layer.b_enc, -1e6), b_dec=mean)
        for layer, mean in zip(perfect.layers, mean_outputs(model, perfect), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)  # no factor makes anything of a constant
        table = fidelity(model, replace(perfect, layers=tuple(layers)), FRAME)
    assert values(table, "fvu") == pytest.approx(dict.fromkeys(("0", "1", "2", "all"), 1.0), abs=1e-4)
    assert values(table, "loss_recovered")["all"] == pytest.approx(0.0, abs=1e-3)
    assert set(values(table, "l0").values()) == {0.0} and set(values(table, "dead").values()) == {1.0}


def test_a_scale_that_does_not_fit_is_named(rectifying):
    """Outputs a fifth as large explain little, and all if they are multiplied by five."""
    model, perfect = rectifying
    layers = list(perfect.layers)
    layers[1] = replace(layers[1], W_dec=layers[1].W_dec / 5)
    with pytest.warns(InputWarning, match="of layer 1 leave .* but 0% if its outputs were multiplied by 5[.]"):
        fidelity(model, replace(perfect, layers=tuple(layers)), FRAME)


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_measures_are_their_definitions(tiny_model, kind):
    model = tiny_model("llama")
    transcoders = random_transcoders(model, kind, skip=True, b_enc=-1.5)
    table = fidelity(model, transcoders, FRAME)
    means = mean_outputs(model, transcoders)
    active, square, variance, agree, losses = [], [], [], [], []
    for prompt, answer in zip(PROMPTS, FRAME["answer"], strict=True):
        seen = seen_of(model, transcoders, prompt)
        acts = [activations_of(transcoders, layer, seen.read[layer]) for layer in range(3)]
        made = [reconstruct(transcoders, layer, acts, seen.read[layer]) for layer in range(3)]
        active.append(torch.stack([a[0, 1:] > 0 for a in acts]))
        square.append([float((seen.write[layer] - made[layer])[0, 1:].square().sum()) for layer in range(3)])
        variance.append([float((seen.write[layer][0, 1:] - means[layer]).square().sum()) for layer in range(3)])
        wanted = answer_token(model, prompt, answer)
        final = [seen.logits[0, -1], replaced(model, transcoders, prompt), blanked(model, transcoders, prompt, means)]
        agree.append(float(final[0].argmax() == final[1].argmax()))
        losses.append([-float(logits.double().log_softmax(-1)[wanted]) for logits in final])
    ratio = torch.tensor(square).sum(0) / torch.tensor(variance).sum(0)
    assert values(table, "fvu") == pytest.approx(
        dict(zip(("0", "1", "2"), ratio.tolist(), strict=True)) | {"all": float(ratio.mean())}, rel=1e-4
    )
    everywhere = torch.cat(active, 1)
    assert values(table, "l0")["1"] == pytest.approx(float(everywhere[1].sum(1).double().mean()))
    assert values(table, "dead")["2"] == pytest.approx(float((~everywhere[2].any(0)).double().mean()))
    assert values(table, "dead")["all"] == pytest.approx(float((~everywhere.any(1)).double().mean()))
    assert values(table, "top1_agreement")["all"] == pytest.approx(sum(agree) / 6)
    clean, replacement, blank = torch.tensor(losses, dtype=torch.float64).mean(0).tolist()
    assert values(table, "loss_recovered")["all"] == pytest.approx(
        1 - (replacement - clean) / (blank - clean), rel=1e-3
    )
    rows = [i for i, behaviour in enumerate(FRAME["behaviour"]) if behaviour == "b"]
    part = torch.tensor(square)[rows].sum(0) / torch.tensor(variance)[rows].sum(0)
    assert values(table, "fvu", "b")["2"] == pytest.approx(float(part[2]), rel=1e-4)


def replaced(model, transcoders, prompt):
    """Final logits when every MLP writes its transcoder's output, but for the first position: layer by layer."""
    inputs, acts = {}, {}

    def read(layer, x):
        inputs[layer], acts[layer] = x, activations_of(transcoders, layer, x)

    def write(layer, y):
        made = reconstruct(transcoders, layer, [acts[i] for i in range(layer + 1)], inputs[layer])
        made[:, 0] = y[:, 0]
        return made

    hooks = []
    for layer in range(model.n_layers):
        hooks.append((f"blocks.{layer}.{transcoders.read_hook}", lambda x, layer=layer: read(layer, x)))
        hooks.append((f"blocks.{layer}.{transcoders.write_hook}", lambda y, layer=layer: write(layer, y)))
    return run(model, torch.tensor([encode(model, prompt)]), edits=hooks)[0][0, -1]


def blanked(model, transcoders, prompt, means):
    def constant(layer, y):
        held = means[layer].expand_as(y).clone()
        held[:, 0] = y[:, 0]
        return held

    hooks = [(f"blocks.{i}.{transcoders.write_hook}", lambda y, i=i: constant(i, y)) for i in range(model.n_layers)]
    return run(model, torch.tensor([encode(model, prompt)]), edits=hooks)[0][0, -1]


def test_development_prompts_are_left_out(tiny_model):
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    more = pd.concat([FRAME, FRAME.assign(split="dev", prompt=[f"w{50 + i} w70 w80" for i in range(6)])])
    assert fidelity(model, transcoders, more).equals(fidelity(model, transcoders, FRAME))


# Behaviour -----------------------------------------------------------------------------------------------------------


def answered(model, prompts):
    """What the model says to each prompt, as a word; prompts whose answer is no word are left out."""
    tops = {prompt: int(capture(model, encode(model, prompt)).logits[0, -1].argmax()) for prompt in prompts}
    return {prompt: f"w{token - 4}" for prompt, token in tops.items() if token >= 4}


@pytest.fixture(scope="module")
def said(tiny_model):
    found = answered(tiny_model("llama"), [*PROMPTS, *(f"w{i} w{i + 1}" for i in range(20, 40, 2))])
    assert len(found) >= 8
    return found


def other(word: str) -> str:
    return "w90" if word != "w90" else "w91"


def test_evaluate_counts_right_answers(tiny_model, said):
    (one, two, three, four, five), (six,) = list(said)[:5], list(said)[5:6]
    rows = [
        (one, said[one], "a", "test"), (two, other(said[two]), "a", "test"), (three, said[three], "a", "test"),
        (four, other(said[four]), "b", "test"), (five, said[five], "c", "test"), (six, other(said[six]), "c", "dev"),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["prompt", "answer", "behaviour", "split"])
    for given in (frame, frame.sample(frac=1, random_state=1)):
        found = evaluate(tiny_model("llama"), given).set_index("behaviour")
        assert found["accuracy"].to_dict() == pytest.approx({"a": 2 / 3, "b": 0.0, "c": 1.0})
        assert found["n"].to_dict() == {"a": 3, "b": 1, "c": 1}
    assert evaluate(tiny_model("llama"), frame, split="dev")["accuracy"].tolist() == [0.0]


def case_of(prompts: dict[str, Prompt], items: list[Item]) -> Case:
    return Case(name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts=prompts, items=tuple(items))


def item_of(name: str, text: str, answer: str, **factors: str) -> Item:
    return Item(item=name, text=text, answer=answer, cluster="c", split="heldout", role="score", factors=factors)


def test_the_table_of_prompts(tiny_model, said):
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    one, two = list(said)[:2]
    case = case_of(
        {"shown": Prompt(text=one, answer=said[one], factors={"city": "w1"})},
        [item_of("x", two, other(said[two]), place="w9"), item_of("y", two, said[two], place="w8")],
    )
    cache, frame = prompts_table(model, transcoders, case)
    assert frame["item"].tolist() == ["shown", "x", "y"] and len(cache.lengths) == 3
    assert frame["correct"].tolist() == [True, False, True]
    assert frame["split"].tolist() == ["exploratory", "heldout", "heldout"] and frame["role"].tolist() == [
        "show",
        "score",
        "score",
    ]
    assert frame["city"].tolist() == ["w1", "", ""] and frame["place"].tolist() == ["", "w9", "w8"]
    assert frame["top1"].tolist() == [said[one], said[two], said[two]]
    assert frame["answer_token"].tolist() == [int(word[1:]) + 4 for word in frame["answer"]]
    for place, prompt in enumerate((one, two, two)):
        logits = capture(model, encode(model, prompt)).logits[0, -1].double()
        assert frame["probability"][place] == pytest.approx(float(logits.softmax(-1).max()), rel=1e-5)


def test_a_prompt_is_correct_with_its_donors_only_if_all_three_are(tiny_model, said):
    words = list(said)[:4]

    def items(right: tuple[bool, bool, bool]) -> list[Item]:
        made = [said[text] if yes else other(said[text]) for text, yes in zip(words, right, strict=False)]
        return [
            item_of("own", words[0], made[0], donor="d", wrong_donor="wd"),
            item_of("d", words[1], made[1], donor="", wrong_donor=""),
            item_of("wd", words[2], made[2], donor="own", wrong_donor=""),
        ]

    for right in ((True, True, True), (False, True, True), (True, False, True), (True, True, False)):
        _, frame = prompts_table(
            tiny_model("llama"), random_transcoders(tiny_model("llama")), case_of({}, items(right))
        )
        with_donor = frame.set_index("item")["correct_with_donor"].to_dict()
        assert with_donor == {"own": all(right), "d": right[1], "wd": right[2] and right[0]}


def test_a_case_may_have_donors_and_no_wrong_donors(tiny_model, said):
    one, two = list(said)[:2]
    case = case_of({}, [item_of("x", one, said[one], donor="y"), item_of("y", two, other(said[two]), donor="")])
    _, frame = prompts_table(tiny_model("llama"), random_transcoders(tiny_model("llama")), case)
    assert frame["correct_with_donor"].tolist() == [False, False]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (item_of("bad", "w1 zebra w2", "w3"), "case toy, prompt bad: .*does not know the word 'zebra'"),
        (
            item_of("bad", "w1 w2", "w3 w4"),
            "case toy, prompt bad: .*'w3 w4' is not exactly one token after the prompt 'w1 w2'",
        ),
        (item_of("bad", "w1 w2", "lion"), "case toy, prompt bad: .*lion"),
        (
            item_of("bad", "w1 w2", "w3", donor="nobody", wrong_donor=""),
            "case toy: donor 'nobody' is not a prompt of the case",
        ),
        (
            item_of("bad", "w1 w2", "w3", donor="", wrong_donor="nobody"),
            "case toy: donor 'nobody' is not a prompt of the case",
        ),
    ],
)
def test_a_bad_prompt_is_named(tiny_model, item, message):
    with pytest.raises(InputError, match=message):
        prompts_table(tiny_model("llama"), random_transcoders(tiny_model("llama")), case_of({}, [item]))


def test_selective_features_finds_the_planted_one_of_each_level(tiny_model, monkeypatch):
    """Each level's best feature, wherever it is; decoys fire everywhere, on some of the level, or at another position."""
    prompts = pd.DataFrame(
        {
            "prompt": ["w1 w50", "w2 w50", "w3 w50", "w4 w51", "w5 w51", "w6 w51", "w7 w52"],
            "name": ["w1", "w2", "w3", "w4", "w5", "w6", "w7"], "level": ["a", "a", "a", "b", "b", "b", "c"],
        }
    )  # fmt: skip
    everybody, a, b = range(7), (0, 1, 2), (3, 4, 5)
    planted = {
        (0, 1, 5): everybody, (0, 1, 6): a[:2], (1, 1, 7): a, (1, 1, 8): (*a, 3),  # at the name
        (2, 2, 9): b, (2, 2, 10): b[:2], (2, 0, 11): a,  # at the last token; one at <bos>, where nobody looks
        (0, 2, 12): (3, 6),  # c fires it alone but for one of b: not precise
    }  # fmt: skip
    rows = sorted((prompt, *site) for site, prompts_ in planted.items() for prompt in prompts_)
    columns = torch.tensor(rows, dtype=torch.int32)
    counts = torch.bincount(columns[:, 0], minlength=7)
    cache = FeatureCache(
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]), lengths=torch.full((7,), 3), 
        ids=torch.zeros(21, dtype=torch.long),
        layer=columns[:, 1], pos=columns[:, 2], feature=columns[:, 3], value=torch.ones(len(rows)),
        logits=torch.zeros(7, 100), shape=torch.tensor([7, 3, 3, 48]),
    )  # fmt: skip
    monkeypatch.setattr(behaviour, "cache_features", lambda *_, **__: cache)
    model = tiny_model("llama")
    found = selective_features(model, random_transcoders(model), prompts, {"name": "name", "last token": "prompt"})
    assert found.to_dict("records") == [
        {"level": "a", "at": "name", "layer": 1, "feature": 7, "precision": 1.0, "recall": 1.0},
        {"level": "b", "at": "last token", "layer": 2, "feature": 9, "precision": 1.0, "recall": 1.0},
    ]
    looser = selective_features(model, random_transcoders(model), prompts, {"name": "name"}, least=0.6)
    assert set(looser["level"]) == {"a"}
