"""From a checkpoint on disk to transcoders, a card and a graph: every kind, bounded memory, interruptions, mistakes."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from single_layer import trained_layer

from biology.__main__ import main
from biology.dictionaries import dictionary_training
from biology.dictionaries.dictionary_training import DictionaryRecipe, Pools, pool_schedule
from biology.dictionaries.documents import END
from biology.transcoders.transcoder_files import load_transcoders


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    documents = [" ".join(f"w{word}" for word in rng.integers(0, 96, 20)) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{document}\n{END}\n" for document in documents), encoding="utf-8")
    return path


@pytest.fixture
def train(tiny, text):
    def run(out, *options: str, kind: str = "plt") -> int:
        sizes = {"--features": 64, "--steps": 12, "--batch": 128, "--l0": 8, "--context": 16}
        given = [part for key, value in sizes.items() if key not in options for part in (key, str(value))]
        fixed = ["--model", str(tiny("llama")), "--text", str(text), "--kind", kind, "--out", str(out)]
        return main(["train-transcoders", *fixed, *given, *options])

    return run


@pytest.mark.parametrize(("kind", "layout"), [("plt", "layer_0/cfg.json"), ("skip", "layer_0/cfg.json"), ("clt", "config.yaml")])  # fmt: skip
def test_every_kind_is_trained_measured_and_traced(train, tiny, tiny_model, tmp_path, capsys, kind, layout):
    assert train(tmp_path / "set", kind=kind) == 0
    shown = capsys.readouterr()
    assert "memory plan" in shown.err and "Measured on held-out text" in shown.out
    assert (tmp_path / "set" / layout).is_file() and not list((tmp_path / "set").glob(".*"))
    record = json.loads((tmp_path / "set/record.json").read_text(encoding="utf-8"))
    made = load_transcoders(tmp_path / "set", tiny_model("llama"))
    assert made.kind == ("cross_layer" if kind == "clt" else "per_layer") and (made.layers[0].W_skip is not None) == (
        kind == "skip"
    )
    assert record["features"] == list(made.n_features) and record["kind"] == kind
    measured = record["measured"]
    assert all(0 < measured["l0"][str(layer)] for layer in range(3)) and set(measured["fvu"]) == {"0", "1", "2", "all"}
    card = (tmp_path / "set/README.md").read_text(encoding="utf-8")
    assert f"{measured['fvu']['all']:.4g}" in card and f"{record['tokens']['train']:,}" in card
    held_out = pd.read_parquet(tmp_path / "set/held_out.parquet")
    assert len(held_out) * 16 == record["tokens"]["held_out"]
    model = ["--model", str(tiny("llama")), "--transcoders", str(tmp_path / "set")]
    assert main(["trace", "w1 w2 w3 w4", *model, "--out", str(tmp_path / "graph")]) == 0
    assert (tmp_path / "graph/graph.json").is_file()


@pytest.mark.parametrize("kind", ["plt", "clt"])
def test_a_model_in_half_precision_gets_transcoders_in_full(train, tmp_path, kind):
    assert train(tmp_path / "set", "--dtype", "bfloat16", kind=kind) == 0
    assert train(tmp_path / "full", kind=kind) == 0
    half, full = (json.loads((tmp_path / name / "record.json").read_text(encoding="utf-8")) for name in ("set", "full"))
    assert half["dtype"] == "bfloat16"
    assert half["measured"]["fvu"]["all"] == pytest.approx(full["measured"]["fvu"]["all"], abs=0.05)
    for file in (tmp_path / "set").rglob("*.safetensors"):
        assert all(tensor.dtype == torch.float32 for tensor in load_file(file).values())


@pytest.mark.parametrize("kind", ["plt", "clt"])
def test_an_interrupted_training_ends_at_the_same_bytes(train, tmp_path, monkeypatch, kind):
    """Killed after half of the pools, in a training whose activations come in several."""
    options = ("--memory", "0.002")
    assert train(tmp_path / "whole", *options, kind=kind) == 0
    module = dictionary_training if kind == "plt" else pytest.importorskip("biology.dictionaries.cross_layer_training")
    if kind == "clt":  # a checkpoint after every step
        real = module.train_cross_layer
        monkeypatch.setattr(module, "train_cross_layer", lambda *a, **k: real(*a, **k, checkpoint_every=1))
    save, saved = module.save, []

    def stop(*args):
        save(*args)
        saved.append(args[4])
        if len(saved) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", stop)
    assert train(tmp_path / "stopped", *options, kind=kind) == 130
    assert (
        list((tmp_path / "stopped/.training").glob("checkpoint*")) and not (tmp_path / "stopped/record.json").exists()
    )
    monkeypatch.setattr(module, "save", save)
    assert train(tmp_path / "stopped", *options, kind=kind) == 0
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors")}
    assert len(files) >= 3
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file
    record = json.loads((tmp_path / "stopped/record.json").read_text(encoding="utf-8"))
    assert int(record["identity"]["pools"]) > 1
    for name, resumed in (("whole", False), ("stopped", True)):  # its time is not that of the whole training
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert ("since it was last resumed" in card) == resumed


def test_a_checkpoint_of_another_text_or_recipe_is_refused(train, tmp_path, monkeypatch, capsys):
    def stop(*args):
        save(*args)
        raise KeyboardInterrupt

    save = dictionary_training.save
    monkeypatch.setattr(dictionary_training, "save", stop)
    assert train(tmp_path) == 130
    assert train(tmp_path, "--tokens", "256") == 2
    assert "is a checkpoint of" in capsys.readouterr().err


def test_a_folder_holds_one_set_of_one_training(train, tiny_model, tmp_path, capsys):
    """What loads is what the record says: another kind is refused, and the same training takes the place of all of it."""
    out = tmp_path / "set"
    assert train(out, kind="clt") == 0
    record = (out / "record.json").read_bytes()
    for kind, options, said in (
        ("plt", (), "holds the clt transcoders of another training"),
        ("clt", ("--seed", "1"), "(seed: 0)"),
        ("clt", ("--tokens", "256"), "(text: "),
    ):
        assert train(out, *options, kind=kind) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert (out / "record.json").read_bytes() == record and load_transcoders(
        out, tiny_model("llama")
    ).kind == "cross_layer"

    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.safetensors")}
    (out / "skip.safetensors").write_bytes(b"left of something else")
    (out / "W_enc_0.safetensors").write_bytes(b"damaged")
    assert train(out, kind="clt") == 0
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.safetensors")} == whole

    (out / "notes.txt").touch()
    assert train(out, kind="clt") == 2 and "holds notes.txt, not written by" in capsys.readouterr().err
    (out / "notes.txt").unlink()
    (out / "record.json").unlink()  # as in a set of somebody else's
    assert train(out, kind="clt") == 2 and "no record.json of a training" in capsys.readouterr().err
    (tmp_path / "begun/.training").mkdir(parents=True)
    (tmp_path / "begun/.training/checkpoint_0.safetensors").touch()
    assert train(tmp_path / "begun", kind="clt") == 2 and "checkpoints of another kind" in capsys.readouterr().err


def test_every_pool_is_drawn_from_and_holds_all_tokens_but_the_first_and_ignored_ones(tiny_model):
    model = tiny_model("llama")
    prompts = [[2, 5, 6, 2, 7], [2, 8, 9, 10, 11], [2, 12, 2, 13, 14]]
    feed = Pools(model, prompts, read_hook="mlp.hook_in", write_hook="hook_mlp_out", count=2, ignored=2, progress=False)
    assert [feed[index].inputs.shape[1] for index in range(2)] == [7, 3]
    assert feed[0].outputs.shape == (3, 7, 32) and feed[0] is feed[0]
    assert [list(steps) for _, steps in pool_schedule(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_skip_takes_what_is_linear():
    """Outputs are a linear map of dense inputs and two planted features; with the skip the features suffice."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4096, 16, generator=generator)
    linear = torch.randn(16, 16, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=1)
    outputs = inputs @ linear + 4 * (inputs @ directions.T - 1).relu() @ torch.randn(2, 16, generator=generator)
    left = {}
    for skip in (False, True):
        recipe = DictionaryRecipe(n_features=24, k=2, steps=400, batch=512, learning_rate=1e-2, skip=skip)
        made = trained_layer(inputs, outputs, recipe, 0)
        pre = inputs @ made["W_enc"] + made["b_enc"]
        out = pre.relu() * (pre > made["threshold"]) @ made["W_dec"] + made["b_dec"]
        out = out + inputs @ made["W_skip"].T if skip else out
        left[skip] = float((outputs - out).square().sum() / (outputs - outputs.mean(0)).square().sum())
    assert left[True] < 0.05 and left[False] > 5 * left[True]


# Text from the model itself ------------------------------------------------------------------------------------------


def test_a_model_writes_its_own_text(tiny, tmp_path):
    """The same seed writes the same text, more of it begins with less of it, and it can be trained on."""
    model = str(tiny("llama"))
    for name, tokens, seed in (("a", 300, 0), ("again", 300, 0), ("more", 900, 0), ("other", 300, 1)):
        done = main(["sample", "--model", model, "--out", str(tmp_path / name), "--tokens", str(tokens), "--seed", str(seed)])  # fmt: skip
        assert done == 0
    read = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert read["a"] == read["again"] != read["other"] and read["more"].startswith(read["a"])
    words = read["a"].replace(END, "").split()
    assert 200 < len(words) and all(word[0] == "w" and word[1:].isdigit() for word in words)


def test_documents_are_no_longer_than_asked(tiny, tmp_path, capsys):
    asked = ["sample", "--model", str(tiny("llama")), "--out", str(tmp_path / "text"), "--tokens", "300", "--context"]
    assert main([*asked, "9"]) == 0
    lengths = [len(document.split()) for document in (tmp_path / "text").read_text(encoding="utf-8").split(END)]
    assert max(lengths) == 8  # and the first token
    (tmp_path / "text").unlink()
    assert main([*asked, "65"]) == 2 and not (tmp_path / "text").exists()
    assert "documents of 65 tokens do not fit the model's context of 64" in capsys.readouterr().err


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--l0", "64"), "--l0 64 must be smaller than the 64 features"),
        (("--context", "65"), "reads 2 to 64 tokens"),
        (("--sparsity", "1"), "--sparsity is the penalty of cross-layer"),
        (("--steps", "0"), "--steps: must be at least 1, not 0"),
        (("--features", "4000000000"), "training needs .* free on cpu"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_computed(train, tmp_path, capsys, options, message):
    assert train(tmp_path / "set", *options) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, shown) and not (tmp_path / "set").exists()


def test_what_belongs_to_a_text_needs_one(capsys, tmp_path, text, tiny):
    assert main(["train-transcoders", "--steps", "5"]) == 2
    assert "--steps needs --text FILE" in capsys.readouterr().err
    assert main(["train-transcoders", "--text", str(text)]) == 2
    assert "also needs --model DIR and --out DIR" in capsys.readouterr().err
    assert main(["train-transcoders", "--kind", "skip"]) == 2
    assert "elegans has no skip transcoders" in capsys.readouterr().err
    missing = ["train-transcoders", "--model", str(tiny("llama")), "--out", str(tmp_path), "--text", "no.txt"]
    assert main(missing) == 2 and "no.txt cannot be read" in capsys.readouterr().err
