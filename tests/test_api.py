"""The front door: what stands in the docs runs and says what it promises, and importing the package costs no torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import biology as bio
from biology.records import InputError

ROOT = Path(__file__).parents[1]
SNIPPET = re.search(
    r"```python\n(import biology as bio\n.*?)```",
    (ROOT / "docs/how_to/trace_and_steer.md").read_text(encoding="utf-8"),
    re.S,
)[1]


@pytest.mark.slow
def test_the_snippet_of_the_docs(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown, names = [], {}
    monkeypatch.setattr(
        "biology.api.Attribution.show", lambda graph: shown.append(graph.page())
    )  # IPython is not needed here
    exec(SNIPPET, names)
    graph, run = names["graph"], names["run"]
    assert "Dallas" in shown[0] and shown[0].startswith("<!doctype html>") and "http://" not in shown[0][:200]
    assert graph.scores().completeness > 0.5 and all("%" in path for path in graph.paths(3))
    assert 0 < len(graph.prune(0.8).to_pandas()) < len(graph.to_pandas()) == graph.graph.n_nodes
    assert run.top(1)[0][0].strip() == "Sacramento"
    assert names["bio"].matched_controls(run).top(1)[0][0].strip() != "Sacramento"
    assert run.to_pandas(3)["probability"].is_monotonic_decreasing


def test_a_held_feature_is_what_an_intervention_says(tiny_model):
    """Twice its own activation; with nothing held, what the model says by itself; the control is another run."""
    import torch
    from conftest import random_transcoders

    from biology.interventions.feature_edits import edits
    from biology.interventions.protocols import intervene
    from biology.models.model import encode, run
    from biology.transcoders.activations import cache_features

    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    text = "w1 w2 w3 w4"
    ids = encode(model, text)
    by_itself = bio.intervene(model, transcoders, text)
    plain, _ = run(model, torch.tensor([ids]), positions=-1)
    torch.testing.assert_close(by_itself.probabilities, plain[0, 0].double().softmax(-1))
    features, values = cache_features(model, transcoders, [ids]).cell(0, 1, 2)
    held = bio.intervene(model, transcoders, text, {(1, int(features[0])): 2.0}, at=2, last_layer=1)
    edited = edits([(0, 1, 2, int(features[0]), 2.0 * float(values[0]))])
    expected = (
        intervene(model, transcoders, [ids], torch.tensor([0]), edited, last_layer=1).logits[0, 0].double().softmax(-1)
    )
    torch.testing.assert_close(held.probabilities, expected)
    control = bio.matched_controls(held, n=3)
    assert not torch.allclose(control.probabilities, held.probabilities) and control.held == held.held
    with pytest.raises(InputError, match="feature 1/999 does not exist"):
        bio.intervene(model, transcoders, text, {(1, 999): 1.0})


def test_what_is_offered_starts_no_torch_before_it_is_asked_for():
    code = "import sys, biology as bio; print('torch' in sys.modules, sorted(bio.OFFERED) == [n for n in dir(bio) if n in bio.OFFERED])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bio.nothing
    with pytest.raises(InputError, match="unknown case 'nothing'"):
        bio.case_study("nothing", config=str(ROOT / "config.yaml"))
