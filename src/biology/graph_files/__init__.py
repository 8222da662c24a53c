"""Attribution graphs as files: every dialect in use is read into one form, and that form is written for other viewers.

No torch. `dialects` reads (`read_graph`) and writes (`graph_text`), `nodes` knows the kinds of node, `flow` computes influence from
links alone, and `saved_view` reads pins and supernodes saved in a viewer.
"""
