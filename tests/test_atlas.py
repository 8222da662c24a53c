"""The atlas counts what the transcoders do, and its page quotes tokens as text."""

import base64
import gzip
import json

import numpy as np
import pandas as pd
import pytest
from toy_case import prompts_frame, transcoders_of

from biology.findings.labels import Roles
from biology.models.model import encode
from biology.report.atlas_page import atlas_data
from biology.report.pages import environment, packed
from biology.supernodes.atlas import EXAMPLES, SHADES, feature_atlas, sample
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


def test_hostile_tokens_stay_inside_the_data():
    evil = '</script><script>alert("1")</script>'
    row = {
        "layer": 0, "feature": 0, "density": 0.5, "maximum": 1.0, "raises": json.dumps([evil]), "lowers": "[]",
        "histogram": "1", "examples": '[[0, "9"]]',
    }  # fmt: skip
    prompts = pd.DataFrame([{"prompt": 0, "source": evil, "tokens": json.dumps([evil])}])
    data = packed(atlas_data(pd.DataFrame([row]), prompts, [], {}, Roles({(0, 0): [evil]}, {evil: ["*"]})))
    layers = [{"layer": 0, "count": 1, "alive": 1, "median": 0.5}]
    page = (
        environment().get_template("atlas.html.j2")
        .render(model=evil, transcoders=evil, n_features=1, n_prompts=1, layers=layers, cases=[], data=data)
    )  # fmt: skip
    assert "<script>alert" not in page
    assert json.loads(gzip.decompress(base64.b64decode(data)))["tokens"] == [evil]
    assert packed({"a": 1}) == packed({"a": 1})
