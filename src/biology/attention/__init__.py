"""Attention in attribution graphs: which heads carry an edge (`edge_heads`, `head_loadings`) or an output (`output_heads`), and why
a head attends where it does (`qk`, `matches`)."""
