"""Trains transcoders, and measures them as dictionaries of features: L0, losses, density, comparison at equal size and L0.

`dictionary_training` (per layer, skip) and `cross_layer_training` train; `dictionary_metrics` and `dictionary_comparison` measure;
`documents` and `sampling` provide text to train on.
"""
