"""The commands: a table of contents, one clear line for every mistake, and a traced prompt whose files agree."""

import errno
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from complaints import complaint
from conftest import random_transcoders
from peer_graphs import NAMES, peer_columns, peer_graph, peer_transcoders, write_peer_model
from safetensors.torch import load_file
from stage_rules import SNAKEFILE

from biology.__main__ import CONTENTS, main
from biology.transcoders.transcoder_files import save_transcoders

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def directories(tiny, tiny_model, tmp_path_factory):
    """A tiny model and its transcoders, as `--model DIR --transcoders DIR`."""
    model = tiny_model("llama")
    folder = tmp_path_factory.mktemp("transcoders")
    save_transcoders(folder, random_transcoders(model))
    return ["--model", str(tiny("llama")), "--transcoders", str(folder)]


def test_help_is_a_table_of_contents_and_starts_no_torch():
    code = (
        "import sys; from biology.__main__ import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.strip().endswith("False")
    places = [said.index(f"\n  {name} ") for section in CONTENTS.values() for name in section]
    assert places == sorted(places)


def test_every_stage_of_the_snakefile_is_a_command():
    order = next(iter(CONTENTS.values()))
    places = [SNAKEFILE.index(f'"biology {stage} ') for stage in order]
    assert places == sorted(places)


def test_an_unknown_model_and_an_unknown_case_list_the_known_ones(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "Known models (config.yaml): attention, " in complaint(capsys, "load", "--model", "gemma")
    assert "Known models" in complaint(capsys, "trace", "hello", "--model", "gemma")
    assert "unknown case 'poems'" in complaint(capsys, "cache", "--model", "elegans", "--case", "poems")


def test_judging_what_was_never_loaded_says_what_to_run(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("models: {mine: {path: a, transcoders: b}}\n")
    said = complaint(capsys, "judge", "--model", "mine", "--config", str(tmp_path / "config.yaml"))
    assert "load.json: no such file. Make it with `biology load`, or with `make figures`." in said


def test_an_unknown_key_is_named_by_every_command(capsys, monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text("models: {a: {path: x, transcoders: y, dtypes: float32}}")
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["judge", "--model", "a"],
        ["cache", "--model", "a", "--case", "b"],
        ["trace", "x", "--model", "a"],
    ):
        assert "config.yaml: models.a: unknown key 'dtypes'. Did you mean 'dtype'?" in complaint(capsys, *arguments)


def test_missing_weights_are_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text("models: {a: {path: nowhere, transcoders: nowhere}}")
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in complaint(capsys, "load", "--model", "a")


def test_a_graph_that_does_not_add_up_says_so(capsys, directories):
    assert main(["trace", "w1 w2 w3", *directories, "--dtype", "bfloat16"]) == 0
    assert re.search(
        r"\nwarning: rows are off by up to \S+ of their terms, more than 1e-04: .*\n$", "\n" + capsys.readouterr().err
    )


def test_a_traced_prompt_is_written_and_told(capsys, directories, tmp_path):
    assert main(["trace", "w1 w2 w3", *directories, "--out", str(tmp_path / "traced")]) == 0
    said = capsys.readouterr().out
    assert "replacement score" in said and '"w1" -> ' in said and re.search(r"add up to within \d\.\de-0[5-9] of", said)
    assert len({file.stat().st_mode for file in (tmp_path / "traced").iterdir()}) == 1
    tensors = load_file(tmp_path / "traced/graph.safetensors")
    nodes = pd.read_parquet(tmp_path / "traced/nodes.parquet")
    graph = json.loads((tmp_path / "traced/graph.json").read_text())
    assert tensors["adjacency"].shape == (len(nodes), len(nodes))
    assert len(graph["nodes"]) == int(tensors["node_mask"].sum())
    assert len(graph["links"]) == int(tensors["edge_mask"].sum())
    assert set(nodes["kind"]) == {"feature", "error", "token", "logit"}
    assert "w1 w2 w3" in (tmp_path / "traced/graph.html").read_text(encoding="utf-8")
    assert list(nodes.loc[nodes["kind"] == "token", "pos"]) == [0, 1, 2, 3]
    assert main(["trace", "w1 w2 w3", *directories, "--json"]) == 0
    told, info = json.loads(capsys.readouterr().out), graph["metadata"]["info"]
    how = {"explain", "attention", "norms", "influence_foretells_ablation", "ablated_features"}
    assert how <= told.keys() and {key: told[key] for key in how} == {key: info[key] for key in how}


def test_heads_are_told_in_words_as_data_and_in_the_files(capsys, directories, tmp_path):
    trace = ["trace", "w1 w2 w3", *directories]
    assert main(trace) == 0 and "Heads" not in capsys.readouterr().out
    assert main([*trace, "--heads", "3", "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    lines = re.findall(
        r"^ *[\d.]+% [+-]  .* -> .*\n {11}(L\dH\d -?\d+%.*)$", said.partition("\nHeads ")[2], flags=re.MULTILINE
    )
    assert len(lines) == 3 and "L0H" in said
    links = json.loads((tmp_path / "a/graph.json").read_text())["links"]
    told = [link for link in links if "heads" in link]
    assert len(told) == 3 and all(link["source"].rsplit("_")[-1] != link["target"].rsplit("_")[-1] for link in told)
    assert main([*trace, "--heads", "3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["heads"]
    assert sorted(edge["weight"] for edge in data) == pytest.approx(sorted(link["weight"] for link in told))
    by_weight = {round(link["weight"], 5): link["heads"] for link in told}
    assert all(by_weight[round(edge["weight"], 5)] == edge["heads"] for edge in data)
    first = data[0]["heads"][0]
    assert (
        0 < first["attention"] <= 1 and 0 < len(first["matched"]) <= 3 and 0 < said.count(" attends there with ") <= 3
    )
    step = [f"--{name}={first[name]}" for name in ("layer", "head", "query", "key")]
    assert main(["attend", *trace[1:], *step, "--json", "--top", "3"]) == 0  # the same score, by its own command
    alone = json.loads(capsys.readouterr().out)
    assert (alone["score"], alone["attention"]) == pytest.approx((first["score"], first["attention"]))
    assert [pair["value"] for pair in alone["pairs"]] == pytest.approx([pair["value"] for pair in first["matched"]])
    assert main([*trace, "--heads", "3", "--json", "--target", "w4 - w5"]) == 0  # a contrast
    assert len(json.loads(capsys.readouterr().out)["heads"]) == 3
    assert "heads" not in (tmp_path / "a/graph.json").read_text().split('"links"')[0]
    assert "leave out `live`" in complaint(capsys, *trace, "--heads", "3", "--norms", "live")
    assert main(["trace", "w1", *directories, "--heads", "2", "--max-nodes", "0", "--target", "#9"]) == 0


def test_attention_is_taken_apart_in_words_and_as_data(capsys, directories):
    attend = ["attend", "w1 w2 w3", *directories]
    assert main(attend) == 0
    said = capsys.readouterr().out
    rows = re.findall(
        r'^ +[+-][\d.]+  L(\d)H(\d) .*: "\S+"@\d attends to "\S+"@\d with \d+%$', said, flags=re.MULTILINE
    )
    assert len(rows) == 10 and 'Heads that "w' in said
    assert main([*attend, "--json", "--top", "12", "--target", "w4 - w5"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["target"] == "w4 - w5" and len(listed["heads"]) == 12
    best = next(head for head in listed["heads"] if head["layer"] == 2)
    one = ["--layer", str(best["layer"]), "--head", str(best["head"]), "--target", "w4 - w5"]
    assert main([*attend, *one, "--json", "--top", "4"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["query"], data["key"]) == (best["query"], best["key"])  # of its largest step
    assert data["attention"] == pytest.approx(best["attention"]) == pytest.approx(data["row"][data["key"]])
    assert sum(data["parts"].values()) == pytest.approx(data["score"], rel=1e-4) and data["residual"] < 1e-5
    assert [len(data[name]) for name in ("token_pairs", "pairs", "query_nodes", "key_nodes")] == [4, 4, 4, 4]
    assert main([*attend, *one[:4], "--query", "-1", "--key", "1", "--against", "2"]) == 0
    said = capsys.readouterr().out
    assert '"w3"@3 attends to "w1"@1 rather than to "w2"@2' in said and "points, score" in said
    assert re.search(r"in all, which is the score to within \d\.\de-\d\d of these parts", said)
    first = re.search(r"Strongest pairs.*\n +([+-][\d.]+)  (.*) x (.*)\n", said)
    assert first and all(re.match(r'feature \d/\d+@\d|error \d@\d|"\S+"@\d', node) for node in first.groups()[1:])
    assert main([*attend, "--layer", "1", "--head", "2", "--dtype", "bfloat16"]) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--layer 1", "--layer and --head together name a head"),
        ("--head 1", "--layer and --head together name a head"),
        ("--query 1", "about one head"),
        ("--layer 3 --head 0", "layer 3 does not exist"),
        ("--layer 0 --head 4", "head 4 does not exist"),
        ("--layer 0 --head 1 --query 9", "position 9 lies outside"),
        ("--layer 0 --head 1 --query 1 --key 2", "cannot attend to the later"),
        ("--layer 0 --head 1 --query 2 --key 1 --against 1", "compared with itself"),
        ("--target zebra", "'zebra'"),
        ("--layer -1 --head 0", "--layer: must be at least 0"),
    ],
)
def test_a_head_that_cannot_be_taken_apart_is_one_line(capsys, directories, options, why):
    assert why in complaint(capsys, "attend", "w1 w2 w3", *directories, *options.split())


@pytest.fixture(scope="module")
def accented(directories, tmp_path_factory):
    """The same model with a word that ASCII cannot write."""
    folder = tmp_path_factory.mktemp("accented") / "model"
    shutil.copytree(directories[1], folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace('"w5"', '"café"'), encoding="utf-8")
    return ["--model", str(folder), *directories[2:]]


def test_results_are_there_whatever_the_terminal_can_show(accented, tmp_path, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    trace = ["trace", "w1 café w3", *accented, "--target", "café"]
    assert main([*trace, "--out", str(tmp_path / "ascii")]) == 0
    said = shown.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert '"caf\\xe9"  #9' in said and '"caf\\xe9" -> ' in said
    assert json.loads((tmp_path / "ascii/graph.json").read_text("utf-8"))["metadata"]["prompt_tokens"][2] == "café"
    read, write = os.pipe()
    os.close(read)  # as `head` does when it has seen enough
    with open(write, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([*trace, "--out", str(tmp_path / "pipe")]) == 141
    assert [file.name for file in sorted((tmp_path / "pipe").iterdir())] == [
        "graph.html", "graph.json", "graph.safetensors", "nodes.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "trace x --model nowhere --transcoders nowhere",
        "sample --model nowhere",
        "train-transcoders --model nowhere --text nowhere",
        "train-transcoders",
        "grow",
        "certify",
        "organism",
        "cards",
        "export --model elegans --case multi_hop",
        "import nowhere.json",
    ],
)
def test_where_results_go_is_looked_at_before_anything_else(capsys, monkeypatch, tmp_path, command):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    into_a_file = command.split()[0] in ("sample", "import")
    taken, nowhere = ("folder.html", "file/in.html") if into_a_file else ("file", "file/in")
    why = "is a folder: name a file" if into_a_file else "is not a folder"
    assert why in complaint(capsys, *command.split(), "--out", str(tmp_path / taken))
    assert "file is not a folder" in complaint(capsys, *command.split(), "--out", str(tmp_path / nowhere))
    said = complaint(capsys, *command.split(), "--out", "/proc/out.html")  # which takes no files, from root neither
    assert "nothing can be written to /proc" in said
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "folder.html"]


def test_a_stage_that_cannot_write_its_results_does_no_work(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("models: {mine: {path: a, transcoders: b}}\n")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "data").touch()
    for stage in ("load", "measure", "compare-dictionaries", "exchange", "atlas"):
        said = complaint(capsys, stage, "--model", "mine", "--config", str(tmp_path / "config.yaml"))
        assert "data is not a folder" in said
    for stage in ("cache", "group", "attribute", "intervene", "sweep"):
        case = ["--case", "multi_hop", "--config", str(tmp_path / "config.yaml")]
        assert "data is not a folder" in complaint(capsys, stage, "--model", "mine", *case)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(capsys, directories, tmp_path, monkeypatch):
    """A limit on the size of files stands for the end of a disk."""
    trace = ["trace", "w1 w2 w3", *directories, "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # or Python leaves half of it for whoever comes next
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert main(trace) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()
    assert [line for line in capsys.readouterr().err.splitlines() if "rror" in line] == [
        "error: the disk is full, and nothing was written: make room, then run it again"
    ]
    assert main(trace) == 0 and len(list((tmp_path / "out").iterdir())) == 4


def test_a_trace_replaces_a_trace_and_nothing_else(capsys, directories, tmp_path):
    """Not even a part of a model: the folder of the transcoders is refused before anything is loaded."""
    said = complaint(capsys, "trace", "w1 w2", *directories, "--out", directories[-1])
    assert "holds layer_0/cfg.json and 5 more, not written by `biology trace`" in said
    for prompt in ("w1 w2 w3", "w1 w2"):
        assert main(["trace", prompt, *directories, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    tokens = pd.read_parquet(tmp_path / "out/nodes.parquet").query("kind == 'token'")
    assert len(tokens) == 3 == len(json.loads((tmp_path / "out/graph.json").read_text())["metadata"]["prompt_tokens"])


@pytest.mark.parametrize(
    "lack",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)  # fmt: skip
def test_a_lack_of_memory_that_nobody_foretold_is_one_line(capsys, monkeypatch, directories, lack):
    def too_large(*_, **__):
        raise lack

    monkeypatch.setattr("biology.models.model.load_model", too_large)
    assert "more memory than there is" in complaint(capsys, "trace", "w1", *directories)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch, directories):
    def broken(*_, **__):
        raise RuntimeError("a shape that does not fit")

    monkeypatch.setattr("biology.models.model.load_model", broken)
    with pytest.raises(RuntimeError, match="does not fit"):
        main(["trace", "w1", *directories])


def test_token_ids_and_budgets(capsys, directories, tmp_path):
    budget = ["--max-nodes", "3", "--max-logits", "2", "--out", str(tmp_path)]
    assert main(["trace", "--token-ids", "2,7,8", *directories, *budget]) == 0
    kinds = pd.read_parquet(tmp_path / "nodes.parquet")["kind"]
    assert (kinds == "feature").sum() == 3
    assert (kinds == "logit").sum() == 2
    assert (kinds == "token").sum() == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_graph_is_circuit_tracers(capsys, tmp_path, name):
    peer, run, metadata = peer_graph(name)
    (tmp_path / "model").mkdir()
    model = write_peer_model(run, metadata, tmp_path / "model")
    layout = {"layout": "circuit-tracer", "model_name": "peer"}
    save_transcoders(tmp_path / "transcoders", peer_transcoders(run, metadata), **layout)
    where = ["--model", str(model), "--transcoders", str(tmp_path / "transcoders"), "--out", str(tmp_path / "out")]
    ids = ",".join(map(str, run["prompt_ids"].tolist()))
    assert main(["trace", "--token-ids", ids, "--max-logits", metadata["max_logits"], *where]) == 0
    found, ours = load_file(tmp_path / "out/graph.safetensors"), peer_columns(peer)
    assert float((found["adjacency"] - run["adjacency"][ours][:, ours]).abs().max()) <= 1e-5
    assert torch.equal(found["node_mask"].bool(), run["node_mask"][ours])
    assert torch.equal(found["edge_mask"].bool(), run["edge_mask"][ours][:, ours])
    said = capsys.readouterr().out
    assert f"replacement score {float(metadata['replacement']):.3f}" in said
    assert f"completeness {float(metadata['completeness']):.3f}" in said


def test_targets_and_given_features(capsys, directories, tmp_path):
    trace = ["trace", "w1 w2 w3", *directories]
    assert main([*trace, "--target", "w4", "--target", "w5 - w6", "--target", "#9", "--out", str(tmp_path / "a")]) == 0
    nodes = pd.read_parquet(tmp_path / "a/nodes.parquet")
    assert list(nodes.loc[nodes["kind"] == "logit", "label"]) == ['output "w4"', 'output "w5 - w6"', 'output "w5"']
    feature = nodes[nodes["kind"] == "feature"].iloc[-1]
    where = f"feature {feature['layer']}/{feature['feature']}@{feature['pos']}"
    assert main([*trace, "--target", where, "--out", str(tmp_path / "b")]) == 0
    below = pd.read_parquet(tmp_path / "b/nodes.parquet")
    assert below.loc[below["kind"] == "feature", "layer"].max() < feature["layer"]
    chosen = nodes[nodes["kind"] == "feature"].iloc[::2]
    chosen.to_parquet(tmp_path / "chosen.parquet")
    chosen[["layer", "pos", "feature"]].to_csv(tmp_path / "chosen.csv", index=False)
    for file in ("chosen.parquet", "chosen.csv"):
        assert main([*trace, "--features", str(tmp_path / file), "--out", str(tmp_path / "c")]) == 0
        kept = pd.read_parquet(tmp_path / "c/nodes.parquet").query("kind == 'feature'")
        assert (
            kept[["layer", "pos", "feature"]].to_numpy().tolist()
            == chosen[["layer", "pos", "feature"]].to_numpy().tolist()
        )
    for wrong, why in (("1,1.5,2", "not whole numbers"), ("1,9,2", "has no position 9"), ("1,x,2", "not a table")):
        (tmp_path / "wrong.csv").write_text(f"layer,pos,feature\n{wrong}\n")
        assert why in complaint(capsys, *trace, "--features", str(tmp_path / "wrong.csv"))
    (tmp_path / "bad.csv").write_text("layer,pos\n1,2\n")
    assert "bad.csv is not a table" in complaint(capsys, *trace, "--features", str(tmp_path / "bad.csv"))
    both = ("--features", str(tmp_path / "chosen.csv"), "--max-nodes", "3")
    assert "either --features" in complaint(capsys, *trace, *both)
    assert "there is no file" in complaint(capsys, *trace, "--features", str(tmp_path / "none.csv"))
    assert "'w4 w5' is not exactly one token" in complaint(capsys, *trace, "--target", "w4 w5")
    assert "named by its id" in complaint(capsys, "trace", "--token-ids", "2,7", *directories, "--target", "w4")


def test_a_prompt_that_cannot_be_traced_is_one_line(capsys, directories):
    assert "'zebra'" in complaint(capsys, "trace", "w1 zebra", *directories)
    assert "--token-ids: 200 is not in the vocabulary" in complaint(
        capsys, "trace", "--token-ids", "2,200", *directories
    )
    assert "numbers separated by commas" in complaint(capsys, "trace", "--token-ids", "2,a", *directories)
    assert "either a prompt or --token-ids" in complaint(capsys, "trace", *directories)
    assert "needs --transcoders" in complaint(capsys, "trace", "w1", *directories[:2])
