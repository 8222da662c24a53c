"""A shared address brings its pins, supernodes and labels; what it says of no node is named."""

import json

import pytest
from graph_dialects import cantor, modern, old_errors, parsed

from biology.graph_files.saved_view import with_shared_view
from biology.records import InputError, InputWarning

pytestmark = pytest.mark.filterwarnings(
    "ignore::biology.records.InputWarning"
)  # most graphs here hold something unknown


ADDRESS = (
    "https://www.neuronpedia.org/gemma-2-2b/graph?slug=made-up&pinnedIds=0_1_2%2CD25_5604_7%2C1_7_2&clickedId=undefined"
)


def test_a_shared_address_brings_its_pins_supernodes_and_labels():
    groups = [
        ["say b", "0_1_2"],
        ["say b", "1_7_2"],
        ["tokens", "E_9_1"],
    ]  # a name twice, a token as a member, unpinned
    clerps = [["0_1_2", "by node"], [str(cantor(1, 7)), "by feature"], ["9_9_9", "of no node"]]
    address = f"{ADDRESS}&supernodes={json.dumps(groups)}&clerps={json.dumps(clerps)}&pruningThreshold=0.6&densityThreshold=0.99"
    with pytest.warns(InputWarning) as said:
        graph = with_shared_view(parsed(modern() | {"metadata": modern()["metadata"] | {"slug": "other"}}), address)
    assert [str(one.message) for one in said][-4:] == [
        "the address is that of the graph 'made-up', but this one is 'other'",
        "the address: not used: densityThreshold",
        "the address: qParams names nodes that are not in the graph: D25_5604_7",
        "the address: labels of nodes that are not in the graph are left out: 9_9_9",
    ]
    q_params = graph["qParams"]
    assert q_params["pinnedIds"] == ["0_1_2", "D25_5604_7", "1_7_2"] and q_params["clickedId"] == ""
    assert q_params["supernodes"] == [["say b", "0_1_2"], ["say b (2)", "1_7_2"], ["tokens", "E_9_1"]]
    assert q_params["pruningThreshold"] == 0.6
    labels = {one["node_id"]: one["clerp"] for one in graph["nodes"]}
    assert labels["0_1_2"] == "by node" and labels["1_7_2"] == "by feature"
    assert parsed(modern())["nodes"][0]["clerp"] == ""  # the graph given is not changed


def test_an_old_address_names_errors_by_their_old_ids_and_labels_by_features():
    graph = parsed(old_errors())
    told = with_shared_view(graph, '/m/graph?pinnedIds=1_-1_2&clerps={"' + str(cantor(0, 1)) + '": "b"}')
    assert told["qParams"]["pinnedIds"] == ["1_-1_2"]
    assert told["nodes"][0]["clerp"] == "b"


@pytest.mark.parametrize("address", ["https://example.org/", "", "nonsense", "/m/graph?slug=x", "?supernodes=[1,2"])
def test_what_is_no_shared_address_is_said(address):
    with pytest.raises(InputError):
        with_shared_view(parsed(modern()), address)
