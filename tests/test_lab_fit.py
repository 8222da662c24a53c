"""Which models a page can run is told from their configs, and every refusal says why."""

import json
from pathlib import Path

import pytest

from biology.config import load_config
from biology.report.lab_fit import MOST_PARAMETERS, parameters, refused
from biology.report.numbers import parameters as counted

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["elegans", "elegans-languages", "elegans-wild"])
def test_models_that_ship_fit_and_their_parameters_are_counted_right(name):
    entry = load_config(ROOT / "config.yaml").model(name)
    assert refused(entry, ROOT) == ""
    config = json.loads((ROOT / entry.path / "config.json").read_text())
    assert parameters(config) == counted(ROOT / entry.path / "model.safetensors") <= MOST_PARAMETERS


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("elegans-neurons", "neither neurons"),
        ("elegans-shuffled", "nor shuffled ones"),
        ("smollm2-135m-instruct", "it is downloaded"),
    ],
)
def test_other_entries_are_refused(model, why):
    assert why in refused(load_config(ROOT / "config.yaml", model).model(model), ROOT)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_hidden_layers": 60}, "at most 4 million parameters, and it has 16.1 million"),
        ({"hidden_act": "gelu"}, "in hidden_act"),
        ({"num_key_value_heads": 2, "attention_bias": True}, "in attention_bias, num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "in rope_parameters"),
        ({"hidden_size": None}, "config.json is missing, or not that of a Llama"),
    ],
)
def test_configs_that_the_script_cannot_run_are_refused(tmp_path, change, why):
    entry = load_config(ROOT / "config.yaml").model("elegans")
    config = json.loads((ROOT / entry.path / "config.json").read_text())
    (tmp_path / entry.path).mkdir(parents=True)
    assert "is missing" in refused(entry, tmp_path)
    (tmp_path / entry.path / "config.json").write_text(json.dumps({**config, **change}))
    assert why in refused(entry, tmp_path)
