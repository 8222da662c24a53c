"""A model that nobody here trained, all the way: from the hub to verdicts, with one entry in config.yaml.

The model is a Gemma 2 in miniature with a tokenizer that splits words, and transcoders in the layout of Gemma Scope. It knows
nothing, so every claim has to come out untestable, with the reason, and figures and report have to be there all the same.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hub_server import HubServer, commit_of
from miniatures import write_transcoders
from natural_model import write_natural_model
from test_hub import fetch

from biology.__main__ import main
from biology.cases.case import Case, load_case
from biology.cases.case_file import Paper, Prompt
from biology.cases.claim_file import MINIMUM_N, load_claims
from biology.cli.opening import gates_passed
from biology.config import ModelConfig, known_models
from biology.models.model import answer_token, encode, load_model
from biology.records import InputError
from biology.supernodes.behaviour import _gated, _whole, prompts_table
from biology.tables import read_table
from biology.transcoders.transcoder_files import load_transcoders
from biology.verdicts.claims import with_minimum
from biology.verdicts.registration import refreshed_lock

ROOT = Path(__file__).parents[1]
SIGNS = '0123456789 calc: + = "France" "hot" "P"'
ENTRY = """models:
  mini:
    prompts: natural
    hub:
      model: {repo: someone/gemma-mini, gated: true}
      transcoders: {repo: someone/scope-mini, files: ["layer_{layer}/width_48/average_l0_1{layer}/params.npz"], features: 48,
        reads: ln2.hook_normalized, writes: hook_mlp_out}
      shape: {architecture: gemma2, n_layers: 2, d_model: 32, n_heads: 4, n_key_value_heads: 2, d_head: 8, d_mlp: 64, n_vocab: 600,
        tied: true}
  own: {path: published/model, transcoders: published/scope, prompts: natural}
"""


def run(*arguments):
    assert main([*arguments[:1], "--model", *arguments[1:]]) == 0, arguments


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with one case, of whose natural prompts one wording in eight is kept (one with development prompts of both sets), and what a hub would publish."""
    root = tmp_path_factory.mktemp("real")
    case = root / "experiments/multi_hop"
    shutil.copytree(ROOT / "experiments/multi_hop", case)
    prompts = pd.read_csv(case / "prompts_natural.csv", dtype=str, keep_default_na=False)
    prompts = prompts[prompts["template"] == "1"]
    prompts.to_csv(case / "prompts_natural.csv", index=False)
    (root / "experiments/claims.lock").write_text(refreshed_lock(root).text())
    (root / "config.yaml").write_text(ENTRY)
    write_natural_model(root / "published/model", [*(prompts["text"] + " " + prompts["answer"]), SIGNS])
    write_transcoders(root / "published/scope", "gemma scope")
    return root


@pytest.fixture(scope="module")
def finished(root):
    """Everything that `snakemake figures/all --config model=mini` runs, in its order."""
    hub = HubServer({"someone/gemma-mini": root / "published/model", "someone/scope-mini": root / "published/scope"})
    code, _, said = fetch(root, hub)
    hub.close()
    assert code == 0, said
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run("load", "mini")
        for stage in ("cache", "group", "attribute", "intervene", "tabulate"):
            run(stage, "mini", "--case", "multi_hop")
        run("exchange", "mini")
        run("judge", "mini")
        for figure in load_case(root, "multi_hop").figures:
            run("draw", "mini", "--case", "multi_hop", "--figure", figure)
        run("atlas", "mini")
        run("sweep", "mini", "--case", "multi_hop")
        run("write", "mini", "--case", "multi_hop")
        assert main(["write"]) == 0
    return root


@pytest.mark.slow
def test_every_claim_is_untestable_and_says_why(finished):
    verdicts = pd.read_csv(finished / "reports/mini/verdicts.csv")
    assert len(verdicts) == len(load_claims(ROOT, "multi_hop")) and set(verdicts["verdict"]) == {"untestable"}
    for reason in verdicts["reason"]:
        assert "held-out items pass the gate" in reason and f"the claim needs {MINIMUM_N}" in reason


@pytest.mark.slow
def test_figures_and_report_are_there(finished):
    figures = load_case(ROOT, "multi_hop").figures
    for name in figures:
        assert (finished / f"figures/mini/multi_hop/{name}.png").stat().st_size > 1000
    assert "there is nothing to show" in (finished / "figures/mini/multi_hop/swap_panel-swap.svg").read_text()
    page = (finished / "reports/mini/multi_hop.html").read_text()
    assert "untestable" in page and "mini" in (finished / "reports/index.html").read_text()


@pytest.mark.slow
def test_the_manifest_names_the_commits(finished):
    manifest = json.loads((finished / "data/runs/mini/load.json").read_text())
    published = {"someone/gemma-mini": "model", "someone/scope-mini": "scope"}
    assert manifest["sources"] == {repo: commit_of(finished / "published" / part) for repo, part in published.items()}


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_is_one_entry_too(finished, monkeypatch):
    monkeypatch.chdir(finished)
    run("load", "own")
    run("cache", "own", "--case", "multi_hop")
    same = [read_table(finished / f"data/runs/{model}/multi_hop/cache.parquet", "prompts") for model in ("mini", "own")]
    pd.testing.assert_frame_equal(*same)


@pytest.mark.slow
def test_transcoders_that_read_another_hook_than_the_entry_says(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    text = (finished / "config.yaml").read_text()
    (finished / "other.yaml").write_text(text.replace("reads: ln2.hook_normalized", "reads: ln2.hook_out"))
    assert main(["load", "--model", "mini", "--config", "other.yaml"]) == 2
    assert (
        "read ln2.hook_normalized and write hook_mlp_out; those of model 'mini' read ln2.hook_out"
        in capsys.readouterr().err
    )


# Answers of several tokens -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(root):
    return load_model(root / "published/model")


def test_the_first_token_stands_for_an_answer(model):
    prompt = "Fact: the capital of the state containing Dallas is"
    answer = "Baton Rouge"
    with pytest.raises(InputError, match="not exactly one token"):
        answer_token(model, prompt, answer)
    assert (
        answer_token(model, prompt, answer, first=True)
        == encode(model, f"{prompt} {answer}")[len(encode(model, prompt))]
    )
    sums = [encode(model, f"{prompt} {number}") for number in ("95", "9", "91")]
    assert (
        len({answer_token(model, prompt, number, first=True) for number in ("95", "91", "9")}) == 1 and len(sums[0]) > 2
    )


def small_case(**more):
    prompts = {
        name: Prompt(text=f"Fact: the capital of the state containing {city} is", answer=answer, factors=factors)
        for name, city, answer, factors in (
            ("a", "Dallas", "Baton Rouge", {"donor": "b", "wrong_donor": "c"}), ("b", "Oakland", "Baton", {}), ("c", "Ames", "Juneau", {}),
        )
    }  # fmt: skip
    return Case(name="small", folder=Path("small"), paper=Paper(section="", url=""), prompts=prompts, **more)


def test_answers_that_begin_alike_are_no_donors(model, root, monkeypatch):
    """Were the first token of a donor's answer the base's own, every swap would seem to work."""
    transcoders = load_transcoders(root / "published/scope", model)
    with pytest.raises(InputError, match="case small, prompt a.*not exactly one token"):
        prompts_table(model, transcoders, small_case())
    said = {}

    def knows_everything(model, text, answer, first=False):
        said[text] = answer_token(model, text, answer, first=first)
        return said[text]

    monkeypatch.setattr("biology.supernodes.behaviour.answer_token", knows_everything)
    frame = prompts_table(model, transcoders, small_case(first_token=True))[1].set_index("item")
    same = frame.loc["a", "answer_token"] == frame.loc["b", "answer_token"]
    assert same and not frame.loc["a", "correct_with_donor"]


def test_claims_need_fewer_items_of_models_of_others():
    claims = load_claims(ROOT, "multi_hop")
    assert {claim.minimum_n for claim in claims} == {256} and MINIMUM_N == 64
    assert {claim.minimum_n for claim in with_minimum(claims)} == {64}


def test_a_model_that_answers_no_gate_prompt_is_refused(model):
    gates = known_models()["gemma-2-2b"].hub.gates
    hub = known_models()["gemma-2-2b"].hub.model_copy(update={"gates": gates})
    with pytest.raises(InputError, match="answers none of its 3 gate prompts"):
        gates_passed(model, ModelConfig(hub=hub))
    prompt = "Fact: the capital of the state containing Dallas is"
    one = hub.model_copy(update={"gates": {prompt: "Austin"}})
    assert gates_passed(model, ModelConfig(hub=one)) == {prompt: False}


def test_a_number_is_an_answer_only_as_a_whole(model):
    """The miniature writes digit by digit, so that of 95 its first token would be right for 9 and 91 too."""
    said = [_whole(model, {"text": "calc: 36+59=", "answer": answer}) for answer in ("9", "95")]
    assert said == [True, False]


def test_a_prompt_is_gated_by_the_one_that_it_names():
    rows = [("a", True, ""), ("b", False, "a"), ("c", True, "d"), ("d", False, "")]
    frame = pd.DataFrame(rows, columns=["item", "correct", "gated_by"])
    assert _gated(small_case(), frame) == [True, True, False, False]
    with pytest.raises(InputError, match="case small, prompt c: gated_by 'nobody' is not a prompt of the case"):
        _gated(small_case(), frame.replace({"gated_by": {"d": "nobody"}}))
