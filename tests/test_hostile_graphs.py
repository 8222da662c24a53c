"""What is no graph, or would mislead, is refused in one line that names the file."""

import json

import pytest
from graph_dialects import modern

from biology.graph_files.dialects import parse_graph, read_graph
from biology.records import InputError


def changed(change) -> str:
    graph = modern()
    change(graph)
    return json.dumps(graph)


HOSTILE = {
    "weights that are no number": (changed(lambda g: g["links"][0].update(weight=float("nan"))), "not finite"),
    "an infinite weight": (json.dumps(modern()).replace('"weight": 2.0', '"weight": 1e999', 1), "not finite"),
    "an enormous whole number": (
        json.dumps(modern()).replace('"weight": 2.0', '"weight": ' + "9" * 5000, 1),
        "not finite",
    ),
    "a weight of text": (changed(lambda g: g["links"][0].update(weight="2")), "weight"),
    "a true weight": (changed(lambda g: g["links"][0].update(weight=True)), "weight"),
    "a link to nowhere": (
        changed(lambda g: g["links"][0].update(target="9_9_9")),
        "node '9_9_9', which does not exist",
    ),
    "a link from a list": (changed(lambda g: g["links"][0].update(source=["0_1_2"])), "source"),
    "an id given twice": (changed(lambda g: g["nodes"].append(g["nodes"][1])), "twice"),
    "a token beyond the prompt": (changed(lambda g: g["nodes"][0].update(ctx_idx=10**9)), "prompt of 3"),
    "a negative position": (changed(lambda g: g["nodes"][0].update(ctx_idx=-1)), "is at token"),
    "a million layers": (changed(lambda g: g["nodes"][0].update(layer="1000000")), "no layer"),
    "a label that is a list": (changed(lambda g: g["nodes"][0].update(clerp=["x"])), "clerp"),
    "tokens that are numbers": (changed(lambda g: g["metadata"].update(prompt_tokens=[1, 2])), "prompt_tokens"),
    "supernodes that are numbers": (changed(lambda g: g["qParams"].update(supernodes=[1])), "supernodes"),
    "a node without a category": (changed(lambda g: g["nodes"][0].pop("feature_type")), "has no category"),
    "an unknown version": (changed(lambda g: g["metadata"].update(schema_version=2)), "schema_version is 2"),
    "links of another kind": (changed(lambda g: g["qParams"].update(linkType="sideways")), "not one of both, input"),
    "a threshold of text": (changed(lambda g: g["qParams"].update(pruningThreshold="much")), "pruningThreshold"),
    "labels that are numbers": (changed(lambda g: g["qParams"].update(clerps=[["0_1_2", 5]])), "clerps"),
    "supernodes of broken text": (
        changed(lambda g: g["qParams"].update(supernodes="[[")),
        "qParams.supernodes is not valid JSON",
    ),
    "no nodes": (changed(lambda g: g.update(nodes=[], links=[])), "the graph has no nodes"),
    "half a character": (json.dumps(modern()).replace("made-up", "\\ud800", 1), "surrogate"),
    "a list": ("[]", "not an attribution graph"),
    "no JSON": ("<script>alert(1)</script>", "not valid JSON"),
    "nothing": ("", "not valid JSON"),
    "nested without end": ("[" * 200_000, "nested"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_graph_is_refused_in_one_line(name):
    text, said = HOSTILE[name]
    with pytest.raises(InputError, match=said) as refusal:
        parse_graph(text, "hostile.json")
    assert str(refusal.value).startswith("hostile.json: ") and len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_a_file_of_two_hundred_megabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)  # sparse
    monkeypatch.setattr(type(path), "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(InputError, match="200 MB"):
        read_graph(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_graph(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_graph(tmp_path / "binary.json")
