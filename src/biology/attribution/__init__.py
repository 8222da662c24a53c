"""Attribution graphs: direct effects in the local replacement model, influence, pruning, scores, paths.

`assembly.attribute` makes the graph of a prompt, `graph` is the graph as data and its algebra, `graph_paths` tells it in words,
`graph_json` writes it. `global_weights` says how features are wired whatever the prompt.
"""
