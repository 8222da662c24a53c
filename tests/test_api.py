"""The front door: what stands in the docs runs and says what it promises, and importing the package costs no torch."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import biology as bio
from biology.__main__ import main
from biology.records import InputError

ROOT = Path(__file__).parents[1]
SNIPPET = re.search(
    r"```python\n(import biology as bio\n.*?)```",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.S,
)[1]
STEPS = SNIPPET.strip().splitlines()[:-1]


@pytest.mark.slow
def test_the_snippet_of_the_readme(monkeypatch):
    """All but its last line, which takes minutes."""
    monkeypatch.chdir(ROOT)
    shown, names = [], {}
    monkeypatch.setattr(
        "biology.api.Attribution.show", lambda graph: shown.append(graph.page())
    )  # IPython is not needed here
    exec("\n".join(STEPS), names)
    graph, run = names["graph"], names["run"]
    assert "Dallas" in shown[0] and shown[0].startswith("<!doctype html>") and "http://" not in shown[0][:200]
    assert graph.scores().completeness > 0.5 and all("%" in path for path in graph.paths(3))
    assert 0 < len(graph.prune(0.8).to_pandas()) < len(graph.to_pandas()) == graph.graph.n_nodes
    members = names["texas"].to_pandas()
    assert len(members) == len(names["texas"]) > 0 and (members["activation"] > 0).all()
    assert run.top(1)[0][0].strip() == "Sacramento"
    assert names["bio"].matched_controls(run).top(1)[0][0].strip() != "Sacramento"
    assert run.to_pandas(3)["probability"].is_monotonic_decreasing
    assert "'Sacramento' " in repr(run) and "<td>Sacramento</td>" in run._repr_html_()


@pytest.fixture
def toy(tiny_model, tmp_path):
    """A toy case, registered, in a repository of its own, and the model and features that it is asked of."""
    from conftest import random_transcoders
    from toy_repository import STATISTICS, answered, places, write

    model = tiny_model("llama")
    write(tmp_path, answered(model, places()))
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{twin: {{path: x, transcoders: y}}}}\nstatistics: {STATISTICS.model_dump_json()}\n")
    assert main(["lock", "--config", str(config)]) == 0
    return bio.case("toy", config=str(config)), model, random_transcoders(model)


def test_a_claim_is_judged_as_the_pipeline_judges_it(toy):
    """The numbers are those of the functions of the pipeline in its order; nothing is computed before it is asked for, or twice."""
    from toy_repository import NUMBERS as EACH
    from toy_repository import evidence_of, judged, opened

    study, model, transcoders = toy
    verdicts = study.judge(model, transcoders)
    assert list(verdicts) == list(verdicts.claims) and len(verdicts) == 16 and not verdicts.known
    case, claims = opened(study.root)
    expected = judged(claims, case, *evidence_of(model, case, claims))
    for name in ("far", "hinted"):
        verdict = verdicts[name]
        one = dict(zip(EACH, expected[name], strict=False))
        first = verdict.parts.iloc[0]
        assert [first[key] for key in ("statistic", "effect", "n")] == pytest.approx(
            [one[key] for key in ("statistic", "effect", "n")]
        )
        assert verdicts[name] is verdict and verdict.verdict in verdict.parts["verdict"].tolist()
    assert verdicts["far"].low <= verdicts["far"].statistic <= verdicts["far"].high
    assert verdicts["silent"].verdict == "untestable" and set(verdicts.known) == {"far", "hinted", "silent"}
    shown = verdicts["hinted"]
    assert len(shown.to_pandas()) == 3 and shown._repr_html_().count("<tr") == 4 + 1
    with pytest.raises(InputError, match="unknown claim 'fra' of case toy. Did you mean 'far'?"):
        verdicts["fra"]


def test_pages_of_a_notebook_escape_what_they_quote(toy):
    study, model, transcoders = toy
    run = bio.intervene(model, transcoders, "w1 w2")
    assert "<b>" not in replace(run, prompt="<b>w1")._repr_html_()
    claim = study.judge(model, transcoders)["silent"]
    assert "<b>" not in replace(claim, title="<b>")._repr_html_()


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
    for layer, feature in ((1, 999), (9, 0), (-1, 0), (1, -1)):
        with pytest.raises(InputError, match=f"feature {layer}/{feature} does not exist"):
            bio.intervene(model, transcoders, text, {(layer, feature): 1.0})


def test_a_graph_explains_what_the_command_explains(tiny_model):
    """By default logits of transcoders and a contrast of neurons; live attention and a chat on request."""
    from conftest import random_transcoders

    from biology.transcoders.neurons import neuron_set

    model = tiny_model("llama")
    transcoders, text = random_transcoders(model), "w1 w2 w3"
    plain = bio.attribute(model, transcoders, text, max_logits=2)
    told = [
        bio.attribute(model, neuron_set(model, k=4), text),
        plain,
        bio.attribute(model, transcoders, text, explain="contrast"),
    ]
    assert [one.graph.metadata["explain"] for one in told] == ["contrast", "logits", "contrast"]
    live = bio.attribute(model, transcoders, text, attention="live")
    assert live.graph.frozen is not None and live.graph.metadata["attention"] == "live"
    assert -1 <= plain.foretells_ablation(transcoders) <= 1
    with pytest.raises(InputError, match="no chat template: ask it without chat=True"):
        bio.attribute(model, transcoders, text, chat=True)


def test_what_is_offered_starts_no_torch_before_it_is_asked_for():
    code = "import sys, biology as bio; print('torch' in sys.modules, sorted(bio.OFFERED) == [n for n in dir(bio) if n in bio.OFFERED])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bio.nothing
    with pytest.raises(InputError, match="unknown case 'nothing'"):
        bio.case("nothing", config=str(ROOT / "config.yaml"))
