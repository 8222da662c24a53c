"""Transcoders trained, and measured as dictionaries of features: L0, losses, density, equal size and L0.

`dictionary_training` (per layer, skip) and `cross_layer_training`; `dictionary_metrics` and `dictionary_comparison` measure;
`documents` and `sampling` give text to train on.
"""
