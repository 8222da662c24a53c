"""Attribution graphs: direct effects in the local replacement model, influence, pruning, scores, paths.

`assembly.attribute` makes the graph of a prompt. `graph` holds its nodes and edges, with influence, pruning and scores;
`graph_paths` describes paths in words, `graph_json` writes files. `global_weights` gives the connections between features that hold
for every prompt.
"""
