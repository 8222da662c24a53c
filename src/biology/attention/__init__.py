"""Attention in attribution graphs: which heads carry an edge (`head_loadings`), and why a head attends (`qk`)."""
