"""Batches are what the recipe says, nothing held out is fed, and an interrupted growth ends at the same weights."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from biology.__main__ import main
from biology.corpora import lessons
from biology.corpora.corpus import Corpus
from biology.models.model import encode as encode_text
from biology.models.model import load_model
from biology.organisms import organism
from biology.organisms.organism import (
    Feed,
    Recipe,
    Rows,
    accuracy,
    attention_mask,
    dictionary_prompts,
    encode_items,
    grow,
    learning_rate,
    new_model,
)
from biology.records import InputError

SMALL = {
    "addition": 4,
    "disguised": 2,
    "digit": 2,
    "two_hop": 3,
    "one_hop": 3,
    "cell": 3,
    "translation": 3,
    "tag": 2,
    "usage": 2,
    "couplet": 4,
}
TINY = Recipe(n_layers=1, d_model=16, n_heads=2, d_mlp=16, steps=5, batch=SMALL)


@pytest.fixture(scope="module")
def small(corpus):
    """The corpus with a few sums and couplets, which is encoded faster."""
    made = Corpus()
    vars(made)["addition_split"] = {pair: split for pair, split in corpus.addition_split.items() if max(pair) < 12}
    vars(made)["couplets"] = corpus.couplets[::20]
    return made


@pytest.fixture(scope="module")
def encode(words):
    return lambda text: words.encode(text).ids


@pytest.fixture(scope="module")
def feed(corpus, encode):
    return Feed(corpus, Recipe(), encode, 0)


@pytest.fixture(scope="module")
def questions(corpus, words):
    """Every question with its answer, encoded: those that are taught, and those held out. The last token is the answer."""
    rows = {"train": set(), "held out": set()}
    items = [item for name, block in corpus.blocks.items() if name != "couplet" for item in block]
    encoded = words.encode_batch([f"{item.prompt} {item.answer}" for item in items])
    for item, text in zip(items, encoded, strict=True):
        rows["train" if item.split == "train" else "held out"].add(tuple(text.ids))
    assert len(rows["held out"]) > 5000 and not rows["train"] & rows["held out"]
    return rows


@pytest.fixture(scope="module")
def first_lines(corpus, encode):
    """First lines of couplets with their newline, encoded: those of training, and those held out."""
    rows = {"train": set(), "held out": set()}
    for theme, ending, word, _, split in corpus.couplets:
        line = corpus.couplet_lines(theme, ending, word, "", ())[0]
        rows["train" if split == "train" else "held out"].add(tuple(encode(line)))
    assert len(rows["held out"]) > 2000 and not rows["train"] & rows["held out"]
    return rows


def trimmed(ids: torch.Tensor) -> list[tuple[int, ...]]:
    """Rows without the padding on their right."""
    return [tuple(itertools.takewhile(bool, row)) for row in ids.tolist()]


# Batches -------------------------------------------------------------------------------------------------------------


def test_batches_are_a_function_of_seed_and_step(small, encode):
    one, again, other = (Feed(small, Recipe(), encode, seed) for seed in (0, 0, 1))
    list(again(3))  # what was asked before does not matter

    def flat(batches):
        return [batch.ids.flatten().tolist() for batch in batches]

    for first, second in zip(one(7), again(7), strict=True):
        assert torch.equal(first.ids, second.ids) and torch.equal(first.targets, second.targets)
        assert (first.hidden_from_line_2 is None) == (second.hidden_from_line_2 is None)
        if first.hidden_from_line_2 is not None:
            assert torch.equal(first.hidden_from_line_2, second.hidden_from_line_2)
    for different in (one(8), other(7)):
        assert all(a != b for a, b in zip(flat(one(7)), flat(different), strict=True))


def test_a_batch_has_the_rows_of_the_recipe(feed):
    sizes = feed.recipe.batch
    groups = [sum(sizes.get(name, 0) for name in group) for group in Feed.GROUPS]  # further corpora have further blocks
    assert [len(batch.ids) for batch in feed(0)] == [*groups, sizes["couplet"]]


def test_targets_point_at_answers(encode, feed, questions):
    """A question counts at the last position of its prompt and nowhere else; a couplet on all of line 2."""
    *batches, couplets = feed(5)
    for batch in batches:
        for row, targets in zip(trimmed(batch.ids), batch.targets, strict=True):
            assert row in questions["train"]
            assert targets.nonzero().flatten().tolist() == [len(row) - 2]
    newline = encode("\n")[1]
    for row, targets in zip(trimmed(couplets.ids), couplets.targets, strict=True):
        last_newline = max(place for place, token in enumerate(row) if token == newline)
        assert targets.nonzero().flatten().tolist() == list(range(last_newline, len(row) - 1))


def test_nothing_held_out_is_ever_fed(encode, feed, questions, first_lines):
    newline, rows = encode("\n")[1], 0
    for step in range(50):
        *batches, couplets = feed(step)
        for batch in batches:
            shown = set(trimmed(batch.ids))
            assert not shown & questions["held out"]
            rows += len(shown)
        for row in trimmed(couplets.ids):
            start = max(place for place, token in enumerate(row) if token == newline) + 1
            assert row[:start] in first_lines["train"]
    assert rows > 10_000


def test_transcoders_rehearse_nothing_held_out(corpus, encode, questions, first_lines):
    """Their texts are training prompts that end where the answer is made, and training couplets up to their last word."""
    prompts = {part: {row[:-1] for row in rows} for part, rows in questions.items()}
    newline, couplets = encode("\n")[1], 0
    for row in map(tuple, dictionary_prompts(corpus, encode, 0, most=300)):
        if newline in row:
            couplets += 1
            assert row[: len(row) - row[::-1].index(newline)] in first_lines["train"]
        else:
            assert row in prompts["train"] and row not in prompts["held out"]
    assert couplets == 300


# Context dropout -----------------------------------------------------------------------------------------------------


def test_context_dropout_hides_line_1_from_line_2_and_nothing_else(encode, feed):
    newline, dropped, rows = encode("\n")[1], 0, 0
    for step in range(3):
        couplets = list(feed(step))[-1]
        mask = attention_mask(couplets, torch.float32)
        visible = mask[:, 0] == 0
        assert bool((mask[:, 0][~visible] == torch.finfo(torch.float32).min).all())
        for row, ids in enumerate(couplets.ids.tolist()):
            hides = bool(couplets.hidden_from_line_2[row].any())
            dropped, rows = dropped + hides, rows + 1
            end_of_line_1 = max(place for place, token in enumerate(ids) if token == newline)
            for query, key in itertools.product(range(len(ids)), repeat=2):
                hidden = hides and query > end_of_line_1 and 0 < key < end_of_line_1
                assert bool(visible[row, query, key]) == (key <= query and not hidden)
    assert 0.35 < dropped / rows < 0.65
    assert all(attention_mask(batch, torch.float32) is None for batch in list(feed(0))[:-1])


def test_with_dropout_line_2_depends_on_line_1_through_the_newline_only(encode, feed, words):
    """One layer deep nothing has passed through the newline yet: another theme moves the newline and not line 2."""
    model = new_model(Recipe(n_layers=1, d_model=16, n_heads=2, d_mlp=16), words.get_vocab_size(), 0).eval()
    couplets = list(feed(0))[-1]
    theme = encode("A rhyming couplet:\nHe saw a")[-1:]
    place = couplets.ids[0].tolist().index(theme[0]) + 1
    changed = couplets.ids.clone()
    changed[:, place] = encode("carrot")[1]
    mask = attention_mask(couplets, torch.float32)
    with torch.no_grad():
        before, after = (
            model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state for ids in (couplets.ids, changed)
        )
    moved = (before - after).abs().amax(-1) > 1e-6
    other = couplets.ids[:, place] != changed[:, place]
    for row in other.nonzero().flatten().tolist():
        newline = int(couplets.targets[row].nonzero()[0])
        length = len(trimmed(couplets.ids[row : row + 1])[0])
        assert bool(moved[row, newline])
        assert bool(moved[row, newline + 1 : length].any()) != bool(couplets.hidden_from_line_2[row].any())


# Growing -------------------------------------------------------------------------------------------------------------


def grown(corpus, words, folder, *, seed=0, interrupt_at=None, made_of=None):
    """Grow the tiny recipe; its record and its weights before they are rounded to half precision."""
    kept = {}
    save, write_model = organism.save, organism.write_model

    def interrupted_save(path, identity, model, optimiser, step, curve):
        save(path, identity, model, optimiser, step, curve)
        if step == interrupt_at:
            raise KeyboardInterrupt

    def keeping_write(model, made, out):
        kept.update({name: value.detach().clone() for name, value in model.named_parameters()})
        write_model(model, made, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(organism, "tokenizer", lambda _: words)  # made once, because it takes seconds
        patch.setattr(organism, "save", interrupted_save)
        patch.setattr(organism, "write_model", keeping_write)
        record = grow(
            corpus, TINY, seed, folder / "out", folder / "work", checkpoint_every=2, progress=False, made_of=made_of
        )
    return record, kept


@pytest.fixture(scope="module")
def whole(small, words, tmp_path_factory):
    """Record, weights and folder of a growth that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return *grown(small, words, folder), folder


@pytest.fixture
def interrupted(small, words, tmp_path):
    """The folder of a growth that stopped right after its checkpoint of step 2."""
    with pytest.raises(KeyboardInterrupt):
        grown(small, words, tmp_path, interrupt_at=2)
    assert (tmp_path / "work/checkpoint.safetensors").is_file() and not (tmp_path / "out").exists()
    return tmp_path


def test_a_growth_interrupted_twice_ends_at_the_same_weights(small, words, whole, interrupted):
    record, weights, folder = whole
    with pytest.raises(KeyboardInterrupt):
        grown(small, words, interrupted, interrupt_at=4)
    resumed, again = grown(small, words, interrupted)
    assert all(torch.equal(weights[name], again[name]) for name in weights) and len(weights) == len(again) > 8
    assert resumed == record
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (interrupted / "out" / name).read_bytes() == (folder / "out" / name).read_bytes()
    assert not list((interrupted / "work").iterdir())  # a finished growth leaves no checkpoint


def test_a_checkpoint_of_another_seed_is_refused(small, words, interrupted):
    checkpoint = interrupted / "work/checkpoint.safetensors"
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match="is a checkpoint of .*'seed': '0'.*not of .*'seed': '1'"):
        grown(small, words, interrupted, seed=1)
    assert checkpoint.read_bytes() == before and not (interrupted / "out").exists()


def test_a_checkpoint_of_another_corpus_is_refused(small, words, tmp_path):
    """`biology grow --corpus rote --out DIR`, interrupted, and then without --corpus, would have gone on with the twin's weights."""
    with pytest.raises(KeyboardInterrupt):
        grown(small, words, tmp_path, interrupt_at=2, made_of={"corpus": "rote"})
    with pytest.raises(InputError, match="is a checkpoint of .*'corpus': 'rote'.*not of .*'corpus': 'elegans'"):
        grown(small, words, tmp_path, made_of={"corpus": "elegans"})
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_grown_anew_takes_the_old_ones_transcoders_with_it(small, words, tmp_path, monkeypatch, capsys):
    """If its weights are other ones; a folder with anything else is refused before anything is grown. (Growing is stood for by
    its last step.)"""

    def last_step(corpus, recipe, seed, out, work, made_of, lessons):
        organism.write_model(new_model(TINY, words.get_vocab_size(), seed), words, out)
        return {"recipe": {"steps": 5}, "recipe_hash": TINY.hash(), "seed": seed, "curve": [1], "dev": {"loss": 1.0}}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(organism, "grow", last_step)
    monkeypatch.setattr(lessons, "corpus_of", lambda *_: small)
    assert main(["grow", "--corpus", "wild", "--out", "model"]) == 0
    grown, weights = sorted(os.listdir("model")), Path("model/model.safetensors").read_bytes()
    assert {"config.json", "model.safetensors", "record.json", "heldout.parquet", "tokenizer.json"} <= set(grown)
    for name in ("transcoders/record.json", "transcoders/layer_0/cfg.json", "cross_layer/config.yaml"):
        Path("model", name).parent.mkdir(parents=True, exist_ok=True)
        Path("model", name).touch()
    assert main(["grow", "--corpus", "wild", "--out", "model"]) == 0
    assert Path("model/model.safetensors").read_bytes() == weights and Path("model/cross_layer/config.yaml").is_file()
    assert main(["grow", "--corpus", "wild", "--out", "model", "--seed", "1"]) == 0
    assert Path("model/model.safetensors").read_bytes() != weights and sorted(os.listdir("model")) == grown
    assert capsys.readouterr().out.count("deleted, since it was trained on weights that are replaced") == 2

    for name, said in (
        ("model/notes.txt", "model holds notes.txt, not written by `biology grow`"),
        ("model/transcoders/held_out.parquet", "transcoders holds held_out.parquet, not written by"),
        ("theirs/model.safetensors", "theirs holds a model that `biology grow` did not grow"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
        assert main(["grow", "--corpus", "wild", "--out", name.split("/")[0]]) == 2
        assert said in capsys.readouterr().err
        Path(name).unlink()


def test_what_is_grown_is_a_model_directory(whole, small):
    record, weights, folder = whole
    assert record["seed"] == 0 and record["recipe_hash"] == TINY.hash() and record["recipe"]["d_model"] == 16
    assert [entry["step"] for entry in record["curve"]] == [5] and record["dev"] == record["curve"][-1]
    assert set(small.held_out()["behaviour"]) <= set(record["dev"])
    stored = load_file(folder / "out/model.safetensors")
    assert all(torch.equal(stored[name], weights[name].half()) for name in weights)
    model = load_model(folder / "out")
    assert (model.architecture, model.n_layers, model.d_model) == ("llama", 1, 16)
    ids = encode_text(model, "Fact: the capital of the state containing Dallas is")
    assert ids[0] == model.tokenizer.bos_token_id == 1 and model.tokenizer.unk_token_id not in ids


def test_weights_differ_by_seed_and_move_in_training(words, whole):
    initial, other = (dict(new_model(TINY, words.get_vocab_size(), seed).named_parameters()) for seed in (0, 1))
    assert not torch.equal(initial["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert not torch.equal(initial["model.embed_tokens.weight"], whole[1]["model.embed_tokens.weight"])


def test_recipes_are_told_apart():
    assert (
        Recipe().hash() == Recipe().hash()
        and len({Recipe().hash(), TINY.hash(), Recipe(context_dropout=0.0).hash()}) == 3
    )


def test_learning_rate_by_hand():
    recipe = Recipe(steps=1000, learning_rate=1.0, warmup=100, decay_from=0.6)
    expected = {0: 0.01, 49: 0.5, 99: 1.0, 600: 1.0, 800: 0.5, 999: 1 / 400}
    assert {step: learning_rate(recipe, step) for step in expected} == pytest.approx(expected)


def test_accuracy_counts_answers(corpus, encode):
    """A model that always says the right token but to every third question."""
    rows = encode_items(corpus.blocks["two_hop"][:30], encode)
    assert isinstance(rows, Rows) and int(rows.length.min()) < int(rows.length.max())
    wrong = {tuple(row) for row in rows.ids[::3].tolist()}

    def logits(ids):
        padded = torch.nn.functional.pad(ids, (0, rows.ids.shape[1] - ids.shape[1]))
        said = torch.nn.functional.one_hot(padded.roll(-1, 1), 5000).float()[:, : ids.shape[1]]
        fails = torch.tensor([tuple(row) in wrong for row in padded.tolist()])
        said[fails] = said[fails].roll(1, -1)
        return said

    for batch_size in (7, 512):
        assert accuracy(logits, rows, batch_size=batch_size).tolist() == [i % 3 != 0 for i in range(30)]


def test_behaviour_table_by_hand(corpus):
    frame = corpus.held_out().groupby("behaviour").head(2).assign(split="dev")
    table = organism.behaviour_table(frame, np.arange(len(frame)) % 2 == 0)
    assert table["accuracy"].tolist() == [0.5] * frame["behaviour"].nunique() and set(table["n"]) == {2}
