"""What graphs and replacement models are worth, measured on the model itself.

`ablation` (does influence foretell what ablating a feature does), `foretelling` (the same by rule, target and what is frozen),
`faithfulness` (the method's claims about itself, prompt by prompt) and `structure` (what a graph is made of).
"""
