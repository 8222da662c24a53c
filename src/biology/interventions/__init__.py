"""Interventions: features held at chosen values, residual streams exchanged between prompts, and matched controls.

`protocols.intervene` runs rows of `feature_edits.Edits`; `controls` makes matched controls; `residual_exchange` and `site_exchange`
need no transcoders; `generation` continues text while features are held; `held_features` is a short form for notebook and terminal.
"""
