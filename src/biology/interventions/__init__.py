"""Interventions: features held at chosen values, residual streams exchanged, and matched controls beside them.

`protocols.intervene` runs rows of `feature_edits.Edits`; `controls` makes the control of a push; `residual_exchange` and `site_exchange`
need no transcoders; `generation` writes on while features are held; `held_features` is the short form that notebook and terminal use.
"""
