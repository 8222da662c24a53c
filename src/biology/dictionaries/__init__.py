"""Transcoders trained, and measured as dictionaries of features: L0, losses, density, equal size and L0, ablation.

`dictionary_training` (per layer, skip) and `cross_layer_training`; `dictionary_metrics`, `dictionary_comparison` and `ablation` measure;
`documents` and `sampling` give text to train on.
"""
