"""Validation of graphs and replacement models, measured on the model itself.

`ablation` (does influence predict the effect of ablating a feature?), `ablation_prediction` (the same by rule, target and what is
frozen), `faithfulness` (the method's claims about itself, prompt by prompt) and `structure` (the composition of a graph).
"""
