"""The atlas counts what the transcoders do, and its page quotes tokens as text."""

import json
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from test_lab_weights import bytes_of
from toy_case import prompts_frame, transcoders_of

from biology.cases.case import Case
from biology.cases.case_file import Paper
from biology.cases.rules import SupernodeRule
from biology.config import Config
from biology.findings.labels import Roles
from biology.models.model import encode
from biology.report import atlas_page as page_module
from biology.report.atlas_page import atlas_data, with_lists
from biology.report.pages import environment, packed
from biology.supernodes.atlas import EXAMPLES, SHADES, feature_atlas, sample
from biology.tables import table, write_table
from biology.transcoders.activations import cache_features


@pytest.fixture(scope="module")
def surveyed(tiny_model):
    model = tiny_model("llama")
    transcoders = transcoders_of(model)
    prompts = pd.DataFrame({"source": "toy", "text": prompts_frame()["text"].drop_duplicates()}).reset_index(drop=True)
    return transcoders, prompts, *feature_atlas(model, transcoders, prompts)


def test_density_maximum_and_histogram_are_counts_of_activations(tiny_model, surveyed):
    transcoders, prompts, features, _ = surveyed
    ids = [encode(tiny_model("llama"), text) for text in prompts["text"]]
    cache = cache_features(tiny_model("llama"), transcoders, ids)
    tokens = sum(map(len, ids))
    assert len(features) == sum(transcoders.n_features)
    for row in features.iloc[::7].itertuples():
        values = cache.value[(cache.layer == row.layer) & (cache.feature == row.feature)].numpy()
        assert row.density == pytest.approx(len(values) / tokens)
        counts = [int(n) for n in row.histogram.split()]
        assert sum(counts) == len(values)
        if len(values):
            assert row.maximum == pytest.approx(values.max()) and counts[-1] >= 1


def test_examples_are_the_prompts_where_it_is_strongest_shaded_by_activation(tiny_model, surveyed):
    transcoders, prompts, features, texts = surveyed
    ids = [encode(tiny_model("llama"), text) for text in prompts["text"]]
    cache = cache_features(tiny_model("llama"), transcoders, ids)
    place = np.repeat(np.arange(len(ids)), cache.offsets.diff().numpy())
    for row in features[features["density"] > 0].iloc[::5].itertuples():
        mine = ((cache.layer == row.layer) & (cache.feature == row.feature)).numpy()
        best = pd.Series(cache.value.numpy()[mine]).groupby(place[mine]).max().sort_values(ascending=False)
        shown = json.loads(row.examples)
        assert len(shown) == min(EXAMPLES, len(best))
        assert best[[prompt for prompt, _ in shown]].to_numpy() == pytest.approx(best.to_numpy()[: len(shown)])
        for prompt, digits in shown:
            assert len(digits) == len(ids[prompt]) == len(json.loads(texts["tokens"][prompt]))
            for pos, digit in enumerate(digits):
                value = cache.value.numpy()[mine & (place == prompt) & (cache.pos.numpy() == pos)]
                assert (digit == "0") == (len(value) == 0)
                if len(value):
                    assert int(digit) == pytest.approx(SHADES * value[0] / row.maximum, abs=1)


def test_a_sample_is_even_and_repeats_no_text():
    frame = pd.DataFrame({"source": ["a"] * 100 + ["b"] * 3, "text": [f"t{i}" for i in range(100)] + ["t0", "x", "y"]})
    chosen = sample(frame, 10)
    assert chosen["source"].tolist() == ["a"] * 10 + ["b"] * 2
    assert chosen["text"].iloc[[0, 9]].tolist() == ["t0", "t99"] and chosen["text"].is_unique


def read_back(letters):
    """What atlas.js makes of the page's data: facts, and columns of numbers by name."""
    data = zlib.decompress(bytes_of(letters))
    (length,) = struct.unpack("<I", data[:4])
    facts, data, columns = json.loads(data[4 : 4 + length]), data[4 + length :], {}
    for name, count, width, steps in facts["columns"]:
        part, data = np.frombuffer(data[: count * width], np.uint8).reshape(width, count), data[count * width :]
        values = (part.astype(np.int64) << (8 * np.arange(width))[:, None]).sum(0)
        columns[name] = np.cumsum(np.where(values % 2, -(values + 1) // 2, values // 2)) if steps else values
    assert not data
    return facts, columns


def survey(widths, seed, vocabulary=400, n_prompts=50, length=40, signs=False):
    """An atlas with the statistics of a real one: every fifth feature is never active, examples have few shaded tokens. With
    `signs`, the second half of each layer lowers what the first half raises."""
    rng = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(vocabulary)]
    rows = []
    for layer, width in enumerate(widths):
        lists = [
            json.dumps([words[n] for n in several]) for several in rng.integers(0, vocabulary, (2 * width, 10)).tolist()
        ]
        if signs:
            lists[width:] = [*lists[width + width // 2 :], *lists[: width // 2]]
            lists[width // 2 : width] = lists[width : width + width // 2]
        digits = np.zeros((6 * width, length), np.uint8)
        digits[np.arange(6 * width)[:, None], rng.integers(0, length, (6 * width, 3))] = rng.integers(
            1, 10, (6 * width, 3)
        )
        shades = (digits + ord("0")).tobytes().decode()
        which, bins = rng.integers(0, n_prompts, 6 * width).tolist(), (rng.geometric(0.2, (width, 16)) - 1).tolist()
        density, largest = rng.random(width) ** 4, rng.lognormal(size=width)
        for feature in range(width):
            alive = feature % 5 > 0
            shown = [
                [which[n], shades[n * length : (n + 1) * length]] for n in range(6 * feature, 6 * feature + 6 * alive)
            ]
            rows.append(
                {
                    "layer": layer, "feature": feature, "density": alive * float(density[feature]),
                    "maximum": alive * float(largest[feature]), "raises": lists[feature], "lowers": lists[width + feature],
                    "histogram": " ".join(map(str, bins[feature] * alive)), "examples": json.dumps(shown),
                }
            )  # fmt: skip
    texts = [[words[n] for n in rng.integers(0, vocabulary, length)] for _ in range(n_prompts)]
    prompts = [{"prompt": n, "source": "toy", "tokens": json.dumps(text)} for n, text in enumerate(texts)]
    return pd.DataFrame(rows), pd.DataFrame(prompts)


def test_a_page_gives_back_the_table():
    features, prompts = survey([30, 20], 0, signs=True)
    roles = Roles({(1, 3): ["Texas"]}, {"Texas": ["*"]})
    facts, columns = read_back(atlas_data(with_lists(features), prompts, [], {}, roles))
    tokens, starts = facts["tokens"], lambda counts: np.concatenate([[0], np.cumsum(counts)])
    lists, bins, shown, marks = (starts(columns[name]) for name in ("said", "bins", "examples", "shaded"))
    assert [[tokens[n] for n in text] for _, text in facts["texts"]] == [json.loads(text) for text in prompts["tokens"]]
    assert len(columns["said"]) == 50  # and not 100: both signs of a neuron share them
    for place, row in features.iterrows():
        assert (columns["layer"][place], columns["feature"][place]) == (row["layer"], row["feature"])
        for name in ("density", "maximum"):
            digits, power = columns[name][place], 38 - columns[f"{name}_power"][place]
            assert float(f"{digits}e{power}") == float(f"{row[name]:.3g}")
        for name in ("raises", "lowers"):
            found = columns["token"][lists[columns[name][place]] : lists[columns[name][place] + 1]]
            assert [tokens[n] for n in found] == json.loads(row[name])
        assert columns["histogram"][bins[place] : bins[place + 1]].tolist() == [
            int(n) for n in row["histogram"].split()
        ]
        for n, (prompt, shades) in zip(range(shown[place], shown[place + 1]), json.loads(row["examples"]), strict=True):
            here = slice(marks[n], marks[n + 1])
            found = dict(zip(np.cumsum(columns["at"][here]).tolist(), columns["shade"][here].tolist(), strict=True))
            assert columns["prompt"][n] == prompt
            assert found == {at: int(shade) for at, shade in enumerate(shades) if shade != "0"}
        assert facts["labels"][columns["label"][place]] == ("Texas" if (row["layer"], row["feature"]) == (1, 3) else "")


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    """Factory: the page of an atlas, whose case finds these members (item, layer, feature) of its one supernode."""

    def made(features, prompts, members):
        run = tmp_path / "data/runs/toy"
        write_table(run / "atlas.parquet", features, "atlas")
        write_table(run / "atlas_prompts.parquet", prompts, "atlas_prompts")
        (run / "load.json").write_text('{"transcoders": {"name": "toy"}}')
        case = Case(
            name="toy", folder=tmp_path, paper=Paper(section="s", url="u"), prompts={},
            supernodes={"bridge": SupernodeRule(label="{place}")},
        )  # fmt: skip
        found = pd.DataFrame(members, columns=["item", "layer", "feature"]).assign(supernode="bridge")
        items = sorted(set(found["item"]))
        factors = pd.DataFrame({"item": items, "place": [f"place {n % 40}" for n in range(len(items))]})
        plots = table("operand_plots", [])
        monkeypatch.setattr(page_module, "cases_of", lambda *_: [case])
        monkeypatch.setattr(
            page_module, "read_tables", lambda *_: {"prompts": factors, "supernodes": found, "operand_plots": plots}
        )
        return page_module.atlas_page(tmp_path, Config(models={}), "toy")

    return made


def test_the_page_of_a_language_model_is_small(page_of):
    """As many neurons, of both signs, as a model of 30 layers of 1,536 has, with members on 300 prompts: all are there."""
    features, prompts = survey([3072] * 30, 1, vocabulary=45_000, n_prompts=200, signs=True)
    rng = np.random.default_rng(2)
    members = [
        (f"i{n}", int(layer), int(5 * feature + 1))
        for n in range(300)
        for layer, feature in rng.integers(0, [30, 600], (80, 2))
    ]
    page = page_of(features, prompts, members)
    assert len(page) <= page_module.MOST_BYTES == 3_000_000
    text = page.decode("utf-16")
    facts, columns = read_back(text.partition('id="atlas-data">')[2].partition("</script>")[0])
    assert len(columns["layer"]) == 92_160 and len(columns["member"]) > 20_000
    detail = int(columns["said"].max()), int(columns["examples"].max())
    assert (
        detail in page_module.DETAILS
        and f"the {detail[0]} tokens" in text
        and f"strongest, {detail[1]} at most" in text
    )


def test_a_page_that_is_full_leaves_out_what_is_active_least(page_of, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 120_000)
    features, prompts = survey([2000], 3)
    page = page_of(features, prompts, [("i0", 0, 5), ("i1", 0, 10)])  # never active, but a case names them
    assert len(page) <= 120_000
    text = page.decode("utf-16")
    _, columns = read_back(text.partition('id="atlas-data">')[2].partition("</script>")[0])
    kept = set(columns["feature"].tolist())
    assert 100 < len(kept) < 1900 and f"{len(kept):,}" in text and {5, 10} <= kept
    assert columns["member"].tolist() == [sorted(kept).index(5), sorted(kept).index(10)]
    there = features["feature"].isin(kept)
    assert (
        features.loc[there & ~features["feature"].isin([5, 10]), "density"].min()
        >= features.loc[~there, "density"].max()
    )


def test_hostile_tokens_stay_inside_the_data():
    evil = '</script><script>alert("1")</script>'
    row = {
        "layer": 0, "feature": 0, "density": 0.5, "maximum": 1.0, "raises": json.dumps([evil]), "lowers": "[]",
        "histogram": "1", "examples": '[[0, "9"]]',
    }  # fmt: skip
    prompts = pd.DataFrame([{"prompt": 0, "source": evil, "tokens": json.dumps([evil])}])
    roles = Roles({(0, 0): [evil]}, {evil: ["*"]})
    data = atlas_data(with_lists(pd.DataFrame([row])), prompts, [], {}, roles)
    layers = [{"layer": 0, "count": 1, "alive": 1, "median": 0.5}]
    page = (
        environment().get_template("atlas.html.j2")
        .render(
            model=evil, grown=True, transcoders=evil, quantised=evil, n_features=1, n_carried=1, n_prompts=1, n_tokens=1, n_examples=1, layers=layers, cases=[],
            data=Markup(data),
        )
    )  # fmt: skip
    assert "<script>alert" not in page
    assert page.count("<script") == 3 and page.count("</script") == 3
    assert read_back(data)[0]["tokens"] == [evil]
    assert packed({"a": 1}) == packed({"a": 1})
