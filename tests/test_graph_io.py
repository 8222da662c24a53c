"""`biology export` and `biology import`: files that the viewers open, pages of what others made, one line where it fails."""

import json

import jsonschema
import pytest
from graph_dialects import SCHEMA, hosted, modern, old_errors
from multi_hop_tables import write_repository

from biology.__main__ import main
from biology.artefacts import write_json


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository whose case has the graph of one named prompt."""
    root = write_repository(tmp_path_factory.mktemp("repository"), figures=False)
    graph = modern()
    graph["metadata"] |= {"scan": "elegans", "slug": "multi-hop-texas", "info": {"transcoder_kind": "per_layer"}}
    graph["qParams"]["supernodes"] = [["texas", "0_1_2"], ["say_a_capital", "0_1_2", "1_7_2"], ["again", "0_1_2"]]
    write_json(root / "data/runs/elegans/multi_hop/graphs.json", {"texas": graph})
    return root


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("viewer", ["neuronpedia", "circuit-tracer"])
def test_exported_graphs_say_what_they_are_and_come_back_the_same(root, tmp_path, capsys, viewer):
    where = ("--model", "elegans", "--case", "multi_hop", "--config", root / "config.yaml", "--for", viewer)
    code, said, _ = run(capsys, "export", *where, "--scan", "gemma-2-2b", "--out", tmp_path)
    assert code == 0 and "multi-hop-texas.json" in said
    text = (tmp_path / "multi-hop-texas.json").read_text(encoding="utf-8")
    graph = json.loads(text)
    jsonschema.validate(graph, SCHEMA)
    assert graph["metadata"]["scan"] == "gemma-2-2b"
    replication = graph["metadata"]["replication"]
    assert replication["claim_ids"] and replication["weights_sha256"] == "ab" * 32 and replication["prompt"] == "texas"
    assert {one["node_id"]: one["clerp"] for one in graph["nodes"]}["0_1_2"] != ""
    assert [group[1:] for group in graph["qParams"]["supernodes"]] == [["0_1_2"], ["1_7_2"]]  # none is in two
    assert (tmp_path / "graph-metadata.json").is_file() == (viewer == "circuit-tracer")

    assert run(capsys, "import", tmp_path / "multi-hop-texas.json", "--out", tmp_path / "again.json")[0] == 0
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == text


def test_a_folder_of_exported_graphs_takes_further_ones_and_nothing_else(root, tmp_path, capsys):
    """A second case joins the list; a prompt that is gone leaves; a graph of another model, or another file, is never lost."""
    out, runs = tmp_path / "graphs", root / "data/runs/elegans/multi_hop/graphs.json"
    export = ("export", "--model", "elegans", "--case", "multi_hop", "--config", root / "config.yaml", "--out", out)

    def told(slug, **replication):
        graph = modern()
        graph["metadata"] |= {
            "slug": slug,
            "replication": {"model": "elegans", "case": "x", "prompt": "p"} | replication,
        }
        write_json(out / f"{slug}.json", graph)

    told("another-case")
    told("multi-hop-gone", case="multi_hop", prompt="gone")
    assert run(capsys, *export, "--scan", "a/b")[0] == 0
    listed = [one["slug"] for one in json.loads((out / "graph-metadata.json").read_text())["graphs"]]
    assert listed == ["another-case", "multi-hop-texas"] and not (out / "multi-hop-gone.json").exists()
    assert runs.is_file()

    told("multi-hop-texas", model="another", case="multi_hop", prompt="texas")
    before = (out / "multi-hop-texas.json").read_bytes()
    code, said, error = run(capsys, *export)
    assert code == 2 and said == "" and "is the graph of another / multi_hop / texas" in error
    assert (out / "multi-hop-texas.json").read_bytes() == before
    for name, text in (("notes.txt", ""), ("theirs.json", json.dumps(modern()))):
        (out / name).write_text(text)
        code, said, error = run(capsys, *export)
        assert code == 2 and name in error and "not written by `biology export`" in error
        (out / name).unlink()
    assert (
        run(capsys, "import", out / "another-case.json", "--out", out / "another-case.json")[2].count(
            "name another one"
        )
        == 1
    )


@pytest.mark.parametrize("graph", [modern(), old_errors(), hosted()], ids=["modern", "old", "hosted"])
def test_graphs_of_others_become_pages(graph, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(graph))
    code, said, error = run(capsys, "import", path, "--link", "/m/graph?pinnedIds=0_1_2&depth=3")
    assert code == 0 and f"{len(graph['nodes'])} nodes" in said
    assert all(line.startswith("warning: ") for line in error.splitlines()) and "not used: depth" in error
    page = (tmp_path / "theirs.html").read_text(encoding="utf-8")
    assert 'id="explorer"' in page and "&lt;|im_end|&gt;" in page


def test_mistakes_are_one_line_and_leave_nothing(root, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{}")
    config = ("--config", root / "config.yaml")
    case = ("--model", "elegans", "--case", "multi_hop", "--out", tmp_path / "out")
    for words, expected in [
        (("import", tmp_path / "bad.json"), "not an attribution graph"),
        (("import", tmp_path / "absent.json"), "no such file"),
        (("import", tmp_path / "bad.json", "--out", tmp_path / "page.pdf"), ".html"),
        (("export", *case, *config, "--prompt", "nowhere"), "Prompts: texas"),
        (("export", "--model", "nobody", *case[2:], *config), "unknown model"),
        (("export", "--model", "elegans", "--case", "nothing", *case[4:], *config), "biology attribute"),
        (("export", *case, *config, "--for", "neuronpedia", "--scan", "a/b"), "--scan"),
    ]:
        code, said, error = run(capsys, *words)
        lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert code == 2 and said == "" and len(lines) == 1 and expected in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json"]
