"""What a page shows of a large graph: its most influential nodes, and the links between them."""

import pytest

from biology.graph_files.thinning import thinned


def graph(n=60):
    """Features in a chain of decreasing influence, each linked to the output and to all before it."""

    def node(name, kind, influence=None):
        return {"node_id": name, "feature_type": kind, "influence": influence, "ctx_idx": 0, "layer": "0", "clerp": "", "token_prob": 0.5}  # fmt: skip

    features = [node(f"f{i}", "cross layer transcoder", (i + 1) / n) for i in range(n)]
    nodes = [*features[::-1], node("token", "embedding", 1.0), node("out", "logit")]
    links = [{"source": f"f{i}", "target": f"f{j}", "weight": 1.0} for i in range(n) for j in range(i)]
    links += [{"source": f"f{i}", "target": "out", "weight": 1.0} for i in range(n)]
    links += [{"source": "token", "target": "f0", "weight": 1.0}]
    return {"metadata": {"prompt": "x"}, "qParams": {"supernodes": [["kept", "f59"]]}, "nodes": nodes, "links": links}


def test_a_small_graph_stays_as_it_is():
    whole = graph()
    assert thinned(whole, len(whole["links"])) is whole


@pytest.mark.parametrize("most", [30, 200, 1000])
def test_the_most_influential_nodes_stay_with_the_links_between_them(most):
    whole = graph()
    found = thinned(whole, most)
    names = {node["node_id"] for node in found["nodes"]}
    assert 0.6 * most < len(found["links"]) <= most
    assert {"token", "out", "f59"} <= names  # ends of paths, and members of supernodes
    others = sorted(int(name[1:]) for name in names - {"token", "out", "f59"})
    assert others == list(range(len(others)))
    assert found["links"] == [link for link in whole["links"] if {link["source"], link["target"]} <= names]
    assert found["metadata"]["info"]["thinned"] == {"nodes": 62, "links": len(whole["links"])}
    assert "info" not in whole["metadata"]
