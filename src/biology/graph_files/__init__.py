"""Attribution graphs as files: every dialect in use read into one form, and that form written for other viewers.

No torch. `dialects.read_graph` and `graph_text`; `nodes` knows the kinds of node, `flow` works out influence from links alone, and
`saved_view` reads the pins and supernodes that somebody saved.
"""
